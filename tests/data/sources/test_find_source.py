import os
import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, encode, flat_image, load, write_lmdb
from image_sets import NAMES, RANDOM, write_folder, write_mnist

from glo_lightning import LSUNDataModule
from glo_lightning.data.sources.find import find_kind, open_source
from glo_lightning.errors import InputError
from glo_lightning.explore.interactive import load_run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of data of each kind, good and bad, which no test changes."""
    return tmp_path_factory.mktemp("inputs")


@pytest.fixture(scope="module")
def lsun_once(inputs):
    numbers = {"bedroom_train": range(5), "bedroom_val": range(30, 32), "church_outdoor_train": range(10, 13)}
    for name, colours in numbers.items():
        write_lmdb(inputs / "lsun" / f"{name}_lmdb", {b"%02x" % n: encode(flat_image(n)) for n in colours})
    return inputs / "lsun"


@pytest.fixture
def lsun(lsun_once, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(lsun_once, tmp_path / "lsun")


def test_categories_follow_each_other_in_the_given_order_and_are_labelled(lsun):
    data = LSUNDataModule(lsun, image_size=32, categories=["church_outdoor", "bedroom"])
    assert data.dataset.images[:, 0, 0, 0].tolist() == [10, 11, 12, 0, 1, 2, 3, 4]
    assert data.attributes.rows(["class=bedroom"]).tolist() == [3, 4, 5, 6, 7]
    held_out = LSUNDataModule(lsun, image_size=32, holdout_split="val")
    assert held_out.dataset.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 30, 31]
    assert held_out.num_images == 5


def test_the_kind_of_a_root_is_found(lsun, tmp_path):
    write_folder(tmp_path / "photos", NAMES)
    write_mnist(tmp_path / "idx")
    write_mnist(tmp_path / "set" / "FashionMNIST" / "raw")
    write_mnist(tmp_path / "packed" / "FashionMNIST" / "raw")
    for file in (tmp_path / "packed" / "FashionMNIST" / "raw").iterdir():
        file.rename(f"{file}.gz")
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.uint8))
    kinds = {"lsun": "lmdb", "lsun/bedroom_train_lmdb": "lmdb", "lsun/bedroom_train_lmdb/data.mdb": "lmdb"}
    kinds |= {"photos": "folder", "idx": "idx", "idx/train-images-idx3-ubyte": "idx", "a.npy": "array"}
    kinds |= {"set": "FashionMNIST", "packed": "idx"}
    assert {root: find_kind(tmp_path / root) for root in kinds} == kinds


def test_a_folder_that_is_two_things_or_holds_an_array_alone_is_refused(tmp_path):
    folder = write_folder(tmp_path / "set", ["cover.png"])
    (folder / "data").mkdir()
    (folder / "data" / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"images, such as cover.png, and tables, .* --data.source folder or --data.s"):
        open_source(folder)
    assert len(open_source(folder, "folder")) == 1
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "a.npy", np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(InputError, match=r"holds no image files, but a.npy\. Give that file"):
        open_source(tmp_path / "arrays")


def test_lsun_with_other_categories_or_splits_names_the_flags(lsun):
    shutil.rmtree(lsun / "bedroom_train_lmdb")
    with pytest.raises(InputError, match=r"^split train: .* has bedroom in the splits val\. Give one of them\.$"):
        open_source(lsun)
    shutil.move(lsun / "bedroom_val_lmdb", lsun / "tower_train_lmdb")
    with pytest.raises(InputError, match=r"no bedroom_train_lmdb, but church_outdoor, tower\. Give one by --data\.cat"):
        open_source(lsun)
    shutil.rmtree(lsun / "tower_train_lmdb")
    assert len(open_source(lsun)) == 3  # the only category


class Rainbow:
    """A custom source, as glo_lightning/data/README.md shows it."""

    def __init__(self, root, shades=4):
        self.shades, self.fingerprint = shades, (f"rainbow of {root}", shades)

    def __len__(self):
        return self.shades

    def read(self, index):
        return torch.full((3, 8, 8), index * 255 // (self.shades - 1), dtype=torch.uint8)

    def key(self, index):
        return b"shade %d" % index


def test_a_custom_class_is_a_source():
    described = {"class_path": "test_find_source.Rainbow", "init_args": {"shades": 6}}
    data = LSUNDataModule("the sky", source=described, image_size=8)
    assert data.dataset.images[:, 0, 0, 0].tolist() == [0, 51, 102, 153, 204, 255]
    assert data.attributes is None


def test_a_source_has_arguments_of_its_own_on_the_command_line(run, tmp_path):
    flags = ("--data.root", "sky", "--data.source", "test_find_source.Rainbow", "--data.source.shades", 6, *TINY[1:])
    flags += ("--model.latent_dim=2", "--prior=null", "--model.init=random", "--max_epochs=1", "--output")
    assert run(*flags, tmp_path / "a") == (0, "")
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    expected = {"class_path": "test_find_source.Rainbow", "init_args": {"shades": 6}}
    assert config["data"]["source"] == expected
    assert load(tmp_path / "a")["hyper_parameters"]["num_images"] == 6
    assert run("--resume", tmp_path / "a", "--max_epochs=2") == (0, "")
    status, line = run("--resume", tmp_path / "a", "--max_epochs=3", "--data.source.shades=7")
    assert (status, line.split(":")[0]) == (2, "--data.num_samples 7")
    assert len(load_run(tmp_path / "a").data.source) == 6


class WithKeys(Rainbow):
    """It has a member ``keys`` of its own, which is none of ours."""

    def keys(self):
        return ["red", "green"]


def test_a_custom_source_may_have_further_members():
    assert len(LSUNDataModule(source=WithKeys("the sky"), num_samples=3, image_size=8).digests.keys) == 64


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("key", None, "has no key"),
        ("fingerprint", (), "has no fingerprint. Give it a tuple"),
        ("fingerprint", "the sky", "has no fingerprint. Give it a tuple"),
        ("__len__", lambda self: 0, "holds no images: rainbow of the sky. Give others"),
        ("key", lambda self, index: str(index), "has keys of type str. Make key.i. return bytes"),
    ],
)
def test_a_custom_source_that_lacks_something_is_refused(monkeypatch, member, value, message):
    source = Rainbow("the sky")
    if member == "fingerprint":
        source.fingerprint = value
    else:
        monkeypatch.setattr(Rainbow, member, value)
        with pytest.raises(InputError, match=message):
            open_source("the sky", "test_find_source.Rainbow")
    with pytest.raises(InputError, match=message):
        open_source(source=source)


def test_a_run_on_categories_is_resumed(run, lsun, tmp_path):
    flags = ("--data.root", lsun, "--data.categories", "church_outdoor", "bedroom", *TINY[1:], "--model.latent_dim=2")
    assert run(*flags, "--max_epochs=1", "--prior=null", "--output", tmp_path / "a") == (0, "")
    assert load(tmp_path / "a")["hyper_parameters"]["num_images"] == 8
    assert run("--resume", tmp_path / "a", "--max_epochs=2") == (0, "")
    shutil.rmtree(lsun / "church_outdoor_train_lmdb")
    status, line = run("--resume", tmp_path / "a", "--max_epochs=3")
    assert (status, line.split(":")[0]) == (2, "--data.categories church_outdoor")


def test_a_folder_that_changed_since_the_checkpoint_is_refused(run, tmp_path):
    folder = write_folder(tmp_path / "photos", [f"{n % 3}/{n}.png" for n in range(12)])
    flags = ("--data.root", folder, *TINY[1:], "--model.latent_dim=2", "--prior=null", "--data.num_samples=10")
    assert run(*flags, "--max_epochs=1", "--output", tmp_path / "a") == (0, "")
    first = open_source(folder).key(0).decode()
    (folder / first).rename(folder / "renamed.png")
    status, line = run("--resume", tmp_path / "a", "--max_epochs=2")
    assert (status, line.split(":")[0]) == (2, f"--data.root {folder}")
    assert "belong to other images" in line
    assert run(*flags[:-1], "--max_epochs=1", "--output", tmp_path / "all") == (0, "")
    for path in list(folder.rglob("*.png"))[:4]:
        path.unlink()
    status, line = run("--resume", tmp_path / "all", "--max_epochs=2")
    assert (status, line.split(";")[0]) == (2, "--data.num_samples 8: the checkpoint was made with 12")
    status, line = run("--resume", tmp_path / "a", "--max_epochs=2")
    assert (status, line) == (2, f"--data.num_samples 10: {folder} has 8 images. Give 1 to 8.")


T10K = "idx/t10k-images-idx3-ubyte"  # trained on, it must not be held out as well
BAD = [
    ("--data.root empty", "--data.root", "holds no images. Give a folder of files such as .jpg"),
    ("--data.root photos --data.categories bedroom", "--data.root", "is no LSUN folder"),
    ("--data.root lsun --data.categories church_outdor", "--data.categories church_outdor", "mean church_outdoor?"),
    ("--data.root lsun --data.categories bedroom bedroom", "--data.categories bedroom", "twice"),
    ("--data.categories bedroom", "--data.categories bedroom", "--data.root"),
    ("--data.source MNITS", "--data.source MNITS", "did you mean MNIST?"),
    ("--data.source celebA --data.root photos", "--data.root", "holds no complete CelebA"),
    ("--data.source zzzzzz", "--data.source zzzzzz", "there are lmdb, folder"),
    ("--data.source no.Source", "--data.source no.Source", "class"),
    ("--data.source folder", "--data.source folder", "--data.root"),
    ("--data.root photos --data.split test", "--data.split test", "--data.holdout"),
    ("--data.root photos --data.holdout_split train", "--data.holdout_split train", "--data.holdout"),
    ("--data.root photos --data.holdout_split val", "--data.holdout_split val", "has no splits"),
    ("--data.root lsun --data.holdout_split test", "--data.holdout_split test", "bedroom in the splits train, val"),
    ("--data.holdout_split val", "--data.holdout_split val", "an LMDB without splits"),
    (f"--data.root {T10K} --data.holdout_split test", "--data.holdout_split test", "Give the folder"),
    ("--data.root photos --data.source folder --data.source.a 1", "--data.source.a 1", "folder has no such argument"),
    ("--data.root photos --data.source.a 1", "--data.source", "arguments without a source"),
    ("--data.root x --data.source test_find_source.Rainbow --data.source.shade 5", "--data.source.shade 5", "shades?"),
    ("--data.source test_find_source.Rainbow", "--data.source test_find_source.Rainbow", "cannot be made"),
    ("--data.root mixed", "key notes.jpg of", "--data.on_invalid_image skip"),
    ("--data.root cut", "key cut.jpg of", "truncated"),
    ("--data.root floats.npy", "--data.root", "float64. Give uint8"),
    ("--data.root flat.npy", "--data.root", "has shape 9x9"),
    ("--data.root objects.npy", "--data.root", "Give a whole NumPy file."),
    ("--data.root cut.npz", "--data.root", "Give a whole NumPy file."),
    ("--data.root cut_idx", "--data.root", "Give a whole IDX file."),
    ("--data.root idx --data.split val", "--data.split val", "val-images-idx3-ubyte"),
    ("--data.root two_sets", "--data.root", "holds CIFAR10 and STL10"),
    ("--data.root a.txt", "--data.root", "is no LMDB, .npy"),
    ("--data.root pipe", "--data.root", "is no LMDB, .npy"),
    ("--data.root link", "--data.root", "does not exist"),
    (f"--data.root {'x' * 300}", "--data.root", "cannot be read (File name too long)"),
    ("--data.root nowhere", "--data.root", "does not exist"),
]


@pytest.fixture(scope="module")
def bad_inputs(lsun_once, inputs):
    write_folder(inputs / "photos", NAMES)
    (inputs / "empty" / "deep").mkdir(parents=True)
    write_folder(inputs / "mixed", [f"{n}.png" for n in range(24)])
    (inputs / "mixed" / "notes.jpg").write_text("not an image")
    write_folder(inputs / "cut", [f"{n}.png" for n in range(24)])
    whole = encode(RANDOM.integers(0, 256, (64, 64, 3), np.uint8), "JPEG")
    (inputs / "cut" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    np.save(inputs / "floats.npy", np.zeros((5, 8, 8)))
    np.save(inputs / "flat.npy", np.zeros((9, 9), np.uint8))
    np.save(inputs / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.savez(inputs / "cut.npz", x=np.zeros((5, 8, 8), np.uint8))
    (inputs / "cut.npz").write_bytes((inputs / "cut.npz").read_bytes()[:200])
    for name in ("idx", "cut_idx"):
        write_mnist(inputs / name)
    file = inputs / "cut_idx" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:500])
    for name in ("cifar-10-batches-py", "stl10_binary"):
        (inputs / "two_sets" / name).mkdir(parents=True)
    (inputs / "a.txt").write_text("x")
    os.mkfifo(inputs / "pipe")
    (inputs / "link").symlink_to("nothing")
    return inputs


@pytest.mark.parametrize(("arguments", "first", "further"), BAD, ids=[arguments for arguments, *_ in BAD])
def test_wrong_data_is_a_one_line_error(run, bad_inputs, monkeypatch, arguments, first, further):
    monkeypatch.chdir(bad_inputs)
    before = set(bad_inputs.iterdir())
    status, line = run(*TINY[1:], "--model.latent_dim=2", *arguments.split())
    assert status == 2
    assert line.startswith(first)
    assert further in line
    assert set(bad_inputs.iterdir()) == before


def test_an_error_is_one_line_also_where_a_name_has_line_breaks(run):
    status, line = run("--data.root", "no\nwhere")
    assert (status, "no\\nwhere: does not exist" in line) == (2, True)


def test_invalid_images_are_named_counted_and_skipped_on_request(bad_inputs, caplog):
    with caplog.at_level("INFO", "glo_lightning"):
        data = LSUNDataModule(bad_inputs / "mixed", image_size=32, on_invalid_image="skip")
        assert len(data.dataset.skipped) == 1
    line = f"skipped key notes.jpg of {bad_inputs / 'mixed'}: is not an image (of no supported format, or damaged).\n"
    assert line in caplog.text
    assert "decoded 25 of 25 images, skipped 1" in caplog.text
