"""Every kind of source, on small files in its own format, which that format's own library wrote."""

import hashlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, encode, flat_image, load, write_lmdb
from PIL import Image

from glo_lightning import LSUNDataModule
from glo_lightning.data.source import Source, read_image
from glo_lightning.data.sources.arrays import ArraySource
from glo_lightning.data.sources.find import find_kind, open_source
from glo_lightning.errors import InputError
from glo_lightning.images import ImageFormat

RANDOM = np.random.default_rng(0)


def in_digest_order(keys: list[str]) -> list[str]:
    return sorted(keys, key=lambda key: hashlib.sha256(key.encode()).digest())


def keys_of(source: Source) -> list[str]:
    return [source.key(row).decode() for row in range(len(source))]


def numbers_of(source: Source) -> list[int]:
    """The number in its split of every row."""
    return [int(key.split("/")[1]) for key in keys_of(source)]


def write_folder(folder: Path, names: list[str], **options) -> Path:
    """A folder of images, each of the colour of its place among the names."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(flat_image(number)).save(folder / name, **options)
    return folder


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(folder: Path, num_train: int = 30) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    made = {}
    for split, name, number in (("train", "train", num_train), ("test", "t10k", 12)):
        images, labels = RANDOM.integers(0, 256, (number, 28, 28)), RANDOM.integers(0, 10, number)
        write_idx(folder / f"{name}-images-idx3-ubyte", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels)
        made[split] = images, labels
    return made


# ------------------------------------------------------------------------------------------------------------- folders


NAMES = ["cats/1.png", "cats/deep/2.PNG", "dogs/1.png", "dogs/3.webp", "loose.png"]


def test_a_folder_is_read_by_the_digest_of_its_paths_and_its_subfolders_are_classes(tmp_path):
    folder = write_folder(tmp_path / "photos", NAMES, lossless=True)
    (folder / "cats" / "README.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image either")
    source = open_source(folder)
    assert keys_of(source) == in_digest_order(NAMES)
    assert [int(read_image(source, row, ImageFormat(32))[0, 9, 9]) for row in range(5)] == [
        NAMES.index(k) for k in keys_of(source)
    ]
    attributes = LSUNDataModule(folder).attributes
    expected = [{"c": "cats", "d": "dogs", "l": None}[key[0]] for key in keys_of(source)]
    assert attributes.values == {"class": ["cats", "dogs"]}
    assert [None if n < 0 else ["cats", "dogs"][n] for n in attributes.table[:, 0].tolist()] == expected
    assert attributes.rows(["class=dogs"]).tolist() == [row for row, name in enumerate(expected) if name == "dogs"]


def test_a_folder_may_have_a_table_of_attributes_besides(tmp_path):
    folder = write_folder(tmp_path / "photos", NAMES)
    (folder / "attributes.csv").write_text("key,mood\ncats/1.png,good\nloose.png,\n")
    attributes = LSUNDataModule(folder).attributes
    assert attributes.values == {"class": ["cats", "dogs"], "mood": ["", "good"]}
    assert [keys_of(open_source(folder))[row] for row in attributes.rows(["mood=good"]).tolist()] == ["cats/1.png"]


def test_a_link_to_a_folder_above_is_not_followed_and_another_is(tmp_path):
    folder = write_folder(tmp_path / "photos", NAMES)
    write_folder(tmp_path / "others", ["1.png"])
    (folder / "cats" / "loop").symlink_to(folder)
    (folder / "birds").symlink_to(tmp_path / "others")
    assert sorted(keys_of(open_source(folder))) == sorted([*NAMES, "birds/1.png"])


def test_a_folder_that_changed_has_another_fingerprint(tmp_path):
    folder = write_folder(tmp_path / "photos", NAMES)
    before = open_source(folder).fingerprint
    assert before == open_source(folder).fingerprint
    Image.fromarray(flat_image(99)).save(folder / "loose.png", compress_level=0)
    assert open_source(folder).fingerprint[0] == before[0]
    assert open_source(folder).fingerprint[1:] != before[1:]


# -------------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("shape", [(20, 9, 9), (20, 9, 9, 1), (20, 1, 9, 9), (20, 9, 9, 3), (20, 3, 9, 9)])
def test_arrays_are_read_by_the_digest_of_split_and_number(tmp_path, shape):
    images = RANDOM.integers(0, 256, shape, np.uint8)
    np.save(tmp_path / "a.npy", images)
    np.savez_compressed(tmp_path / "a.npz", x=images, y=np.arange(20))
    in_file, in_archive, given = (open_source(tmp_path / "a.npy"), open_source(tmp_path / "a.npz"), ArraySource(images))
    assert keys_of(in_file) == keys_of(in_archive) == in_digest_order([f"train/{n}" for n in range(20)])
    assert keys_of(given) == [f"train/{n}" for n in range(20)]
    for row, number in enumerate(numbers_of(in_file)):
        pixels = torch.from_numpy(images[number])
        pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1) if shape[-1] in (1, 3) else pixels
        assert torch.equal(in_file.read(row), pixels)
        assert torch.equal(in_archive.read(row), pixels)
        assert torch.equal(given.read(number), pixels)
        assert in_archive.labels(row) == {"class": str(number)}


@pytest.mark.parametrize("names", ["x_{0} y_{0}", "{0}_images {0}_labels"])
def test_an_archive_of_splits_gives_each(tmp_path, names):
    arrays = {}
    for split, number in (("train", 8), ("test", 5)):
        images, labels = names.format(split).split()
        arrays |= {images: RANDOM.integers(0, 256, (number, 8, 8), np.uint8), labels: np.arange(number)[:, None] % 3}
    np.savez(tmp_path / "a.npz", **arrays)
    data = LSUNDataModule(tmp_path / "a.npz", image_size=8, holdout_split="test")
    assert (data.num_images, len(data.source)) == (8, 13)
    assert keys_of(data.source)[8:] == in_digest_order([f"test/{n}" for n in range(5)])
    with pytest.raises(InputError, match=r"split val.*(x_train|train_images)"):
        open_source(tmp_path / "a.npz", split="val")


def test_a_tensor_given_in_python_trains(tmp_path):
    images = torch.arange(12, dtype=torch.uint8)[:, None, None].expand(12, 8, 8)
    data = LSUNDataModule(source=ArraySource(images, {"parity": [n % 2 for n in range(12)]}), image_size=8, holdout=2)
    assert data.num_images == 10
    assert data.dataset[[3, 4]][0][:, 0, 0, 0].tolist() == [3, 4]
    assert data.attributes.rows(["parity=1"]).tolist() == [1, 3, 5, 7, 9, 11]


def test_idx_files_are_read_with_their_labels(tmp_path):
    made = write_mnist(tmp_path / "mnist")
    for split, (images, labels) in made.items():
        source = open_source(tmp_path / "mnist", split=split)
        numbers = numbers_of(source)
        assert keys_of(source) == in_digest_order([f"{split}/{n}" for n in range(len(images))])
        assert np.array_equal(np.stack([source.read(row)[0].numpy() for row in range(len(source))]), images[numbers])
        assert [source.labels(row)["class"] for row in range(len(source))] == labels[numbers].astype(str).tolist()
        assert source.channels == 1


# --------------------------------------------------------------------------------------------------- torchvision's sets


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(folder: Path, monkeypatch, number: int = 6) -> np.ndarray:
    from torchvision.datasets import CIFAR10

    images = RANDOM.integers(0, 256, (number * 6, 3, 32, 32), np.uint8)
    base = folder / "cifar-10-batches-py"
    base.mkdir(parents=True)
    sums = []
    for position, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        part = images[position * number : (position + 1) * number]
        content = {"data": part.reshape(number, -1), "labels": [n % 10 for n in range(number)]}
        (base / name).write_bytes(pickle.dumps(content))
        sums.append([name, md5(base / name)])
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(base / "batches.meta")})
    return images


def test_mnist_is_read_by_torchvision(tmp_path):
    made = write_mnist(tmp_path / "MNIST" / "raw")
    data = LSUNDataModule(tmp_path, image_size=32, holdout_split="test")
    assert (data.num_images, len(data.source)) == (30, 42)
    assert keys_of(data.source)[:30] == in_digest_order([f"train/{n}" for n in range(30)])
    number = numbers_of(data.source)[35]
    assert np.array_equal(np.asarray(data.source.read(35)), made["test"][0][number])
    assert data.source.labels(35) == {"class": str(made["test"][1][number])}
    assert open_source(tmp_path, "mnist").channels == 1
    few = LSUNDataModule(tmp_path, num_samples=10, holdout=4, holdout_split="test")
    assert keys_of(few.source) == keys_of(data.source)[:10] + keys_of(data.source)[30:34]
    assert few.holdout_rows(9) == [10, 11, 12, 13]


def test_cifar_is_read_by_torchvision(tmp_path, monkeypatch):
    images = write_cifar(tmp_path, monkeypatch)
    source = open_source(tmp_path)
    assert (len(source), source.channels) == (30, 3)
    for row, number in enumerate(numbers_of(source)):
        assert np.array_equal(np.asarray(source.read(row)), images[number].transpose(1, 2, 0))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog"]
    assert [source.labels(row)["class"] for row in range(30)] == [names[n % 6] for n in numbers_of(source)]


def test_a_pickle_that_is_not_cifars_is_never_loaded(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    for name in ("data_batch_3", "batches.meta"):
        file = tmp_path / "cifar-10-batches-py" / name
        whole = file.read_bytes()
        file.write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(InputError, match="holds no whole CIFAR10"):
            open_source(tmp_path)
        file.write_bytes(whole)
    assert len(open_source(tmp_path)) == 30


def test_svhn_is_read_by_torchvision(tmp_path, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io", reason="torchvision reads SVHN by SciPy")
    from torchvision.datasets import SVHN

    images, labels = RANDOM.integers(0, 256, (32, 32, 3, 9), np.uint8), np.arange(1, 10)[:, None]
    labels[8] = 10  # SVHN's zero
    scipy_io.savemat(tmp_path / "train_32x32.mat", {"X": images, "y": labels})
    known = [*SVHN.split_list["train"][:2], md5(tmp_path / "train_32x32.mat")]
    monkeypatch.setattr(SVHN, "split_list", {**SVHN.split_list, "train": known})
    source = open_source(tmp_path)
    numbers = numbers_of(source)
    assert all(np.array_equal(np.asarray(source.read(row)), images[..., numbers[row]]) for row in range(9))
    assert [source.labels(row)["class"] for row in range(9)] == [str((n + 1) % 9) for n in numbers]


def test_stl10_is_read_by_torchvision_and_has_images_without_labels(tmp_path, monkeypatch):
    from torchvision.datasets import STL10

    base = tmp_path / "stl10_binary"
    base.mkdir()
    sizes = {"train": 4, "test": 3, "unlabeled": 5}
    images = {split: RANDOM.integers(0, 256, (number, 3, 96, 96), np.uint8) for split, number in sizes.items()}
    for split, pixels in images.items():
        pixels.transpose(0, 1, 3, 2).tofile(base / f"{split}_X.bin")  # column by column
        (np.arange(len(pixels), dtype=np.uint8) % 10 + 1).tofile(base / f"{split}_y.bin")
    (base / "class_names.txt").write_text("airplane\nbird\ncar\ncat\n")
    for attribute in ("train_list", "test_list"):
        known = [[name, md5(base / name)] for name, _ in getattr(STL10, attribute)]
        monkeypatch.setattr(STL10, attribute, known)
    source = open_source(tmp_path, split="train+unlabeled")
    every = np.concatenate([images["train"], images["unlabeled"]])
    names = ["airplane", "bird", "car", "cat"]
    for row, number in enumerate(numbers_of(source)):
        assert np.array_equal(np.asarray(source.read(row)), every[number].transpose(1, 2, 0))
        assert source.labels(row) == ({"class": names[number]} if number < 4 else {})
    with pytest.raises(InputError, match=r"split valid: is none of STL10 .*unlabeled"):
        open_source(tmp_path, split="valid")


def write_celeba(folder: Path, monkeypatch, num_train: int = 5) -> list[str]:
    """CelebA's files, three images of them valid; returns the images' names."""
    from torchvision.datasets import CelebA

    base = folder / "celeba"
    names = [f"{number:06d}.jpg" for number in range(1, num_train + 4)]
    write_folder(base / "img_align_celeba", names)
    parts = "".join(f"{name} {int(number >= num_train)}\n" for number, name in enumerate(names))
    (base / "list_eval_partition.txt").write_text(parts)
    (base / "identity_CelebA.txt").write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)))
    boxes = "8\nimage x y w h\n" + "".join(f"{name}  1  2  3  4\n" for name in names)
    (base / "list_bbox_celeba.txt").write_text(boxes)
    marks = "8\na b c d e f g h i j\n" + "".join(f"{name} {' '.join('1' * 10)}\n" for name in names)
    (base / "list_landmarks_align_celeba.txt").write_text(marks)
    lines = "".join(f"{name} {1 if i % 2 else -1} -1\n" for i, name in enumerate(names))
    (base / "list_attr_celeba.txt").write_text("8\nSmiling Young \n" + lines)
    known = [(a, md5(base / name) if name.endswith("txt") else b, name) for a, b, name in CelebA.file_list]
    monkeypatch.setattr(CelebA, "file_list", known)
    return names


def test_celeba_is_read_by_torchvision_with_its_attributes(tmp_path, monkeypatch):
    names = write_celeba(tmp_path, monkeypatch)
    source = open_source(tmp_path)
    assert (len(source), len(open_source(tmp_path, split="valid")), source.channels) == (5, 3, 3)
    for row, number in enumerate(numbers_of(source)):
        assert abs(int(read_image(source, row, ImageFormat(32))[0, 9, 9]) - number) <= 2
        assert source.labels(row) == {"Smiling": str(number % 2), "Young": "0"}
    (tmp_path / "celeba" / "img_align_celeba" / names[numbers_of(source)[1]]).write_bytes(b"hello")
    with pytest.raises(InputError, match="is not an image"):
        read_image(source, 1, ImageFormat(32))


def test_sets_and_splits_in_one_folder_keep_stores_of_their_own(tmp_path):
    for name in ("MNIST", "FashionMNIST"):
        write_mnist(tmp_path / name / "raw")
    choices = [(name, split) for name in ("MNIST", "FashionMNIST") for split in ("train", "test")]
    files = [LSUNDataModule(tmp_path, source=name, split=split).dataset.file for name, split in choices]
    np.savez(tmp_path / "a.npz", x_train=np.zeros((3, 8, 8), np.uint8), x_test=np.zeros((2, 8, 8), np.uint8))
    files += [LSUNDataModule(tmp_path / "a.npz", split=split).dataset.file for split in ("train", "test")]
    for value in (1, 2):
        array = ArraySource(np.full((3, 8, 8), value, np.uint8))
        files.append(LSUNDataModule(source=array).dataset.file)
    assert all(file.exists() for file in files)
    assert len(set(files)) == len(files)


def test_emnists_variant_is_an_argument_and_its_split_is_ours(tmp_path):
    for variant, number in (("letters", 7), ("balanced", 5)):
        for part in ("train", "test"):
            raw = tmp_path / "EMNIST" / "raw"
            write_idx(raw / f"emnist-{variant}-{part}-images-idx3-ubyte", RANDOM.integers(0, 256, (number, 28, 28)))
            write_idx(raw / f"emnist-{variant}-{part}-labels-idx1-ubyte", np.ones(number))
    assert len(open_source(tmp_path)) == 5
    letters = open_source(tmp_path, "EMNIST", {"split": "letters"}, split="test")
    assert (len(letters), letters.labels(0)) == (7, {"class": "a"})
    with pytest.raises(InputError, match=r"source_args .*sprit.* are not those of EMNIST"):
        open_source(tmp_path, "EMNIST", {"sprit": "letters"})


def test_a_download_that_fails_leaves_nothing(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    def download(self):
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / "train-images-idx3-ubyte").write_bytes(b"half")
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nno network")

    monkeypatch.setattr(MNIST, "download", download)
    with pytest.raises(InputError, match=r"download true: MNIST cannot be had \(Error downloading .* no network\)"):
        open_source(tmp_path / "sets", "mnist", download=True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(MNIST, "download", lambda self: write_mnist(Path(self.raw_folder)))
    assert len(open_source(tmp_path / "sets", "mnist", download=True)) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]


# ------------------------------------------------------------------------------------------------------- Hugging Face


@pytest.fixture
def hub_set():
    datasets = pytest.importorskip("datasets", reason="needs the extra hub")
    records = [{"bytes": encode(flat_image(number)), "path": None} for number in range(11)]
    columns = {"picture": records, "label": [n % 2 for n in range(11)], "big": [n > 5 for n in range(11)]}
    features = {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])}
    features |= {"big": datasets.Value("bool")}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_folder_of_parquet_or_arrow_is_read_by_datasets(hub_set, tmp_path, kind):
    folder = tmp_path / "set"
    if kind == "parquet":
        (folder / "data").mkdir(parents=True)
        for split, rows in (("train", range(8)), ("test", range(8, 11))):
            hub_set.select(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    else:
        import datasets

        parts = {"train": hub_set.select(range(8)), "test": hub_set.select(range(8, 11))}
        datasets.DatasetDict(parts).save_to_disk(folder)
    data = LSUNDataModule(folder, image_size=32, holdout_split="test")
    assert (data.num_images, len(data.source)) == (8, 11)
    assert keys_of(data.source)[:8] == in_digest_order([f"train/{n}" for n in range(8)])
    for row, number in enumerate(numbers_of(data.source)):
        number += 8 * (row >= 8)
        assert data.dataset[row][0][0, 0, 0] == number
        assert data.source.labels(row) == {"label": ["even", "odd"][number % 2], "big": str(int(number > 5))}
    assert open_source(folder).fingerprint == open_source(folder).fingerprint
    with pytest.raises(InputError, match=r"split val: .*has the splits train, test"):
        open_source(folder, split="val")


def test_what_is_no_dataset_of_images_is_one_line(hub_set, tmp_path):
    (tmp_path / "set").mkdir()
    hub_set.select_columns(["label"]).to_parquet(tmp_path / "set" / "train.parquet")
    with pytest.raises(InputError, match="has no column of images; its columns are label"):
        open_source(tmp_path / "set")
    (tmp_path / "set" / "train.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match="is no dataset that can be had"):
        open_source(tmp_path / "set")
    with pytest.raises(InputError, match=r"column"):
        open_source(tmp_path / "set", source_args={"colum": "picture"})
    with pytest.raises(InputError, match=r"--data\.download true"):
        open_source("somebody/something", "huggingface")


# ---------------------------------------------------------------------------------------------------------------- LSUN


@pytest.fixture
def lsun(tmp_path):
    numbers = {"bedroom_train": range(5), "bedroom_val": range(30, 32), "church_outdoor_train": range(10, 13)}
    for name, colours in numbers.items():
        write_lmdb(tmp_path / "lsun" / f"{name}_lmdb", {b"%02x" % n: encode(flat_image(n)) for n in colours})
    return tmp_path / "lsun"


def test_lsuns_classes_are_joined_in_the_order_given_and_labelled(lsun):
    data = LSUNDataModule(lsun, image_size=32, categories=["church_outdoor", "bedroom"])
    assert data.dataset.images[:, 0, 0, 0].tolist() == [10, 11, 12, 0, 1, 2, 3, 4]
    assert data.attributes.rows(["class=bedroom"]).tolist() == [3, 4, 5, 6, 7]
    held_out = LSUNDataModule(lsun, image_size=32, holdout_split="val")
    assert held_out.dataset.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 30, 31]
    assert held_out.num_images == 5


# -------------------------------------------------------------------------------------------- what a root is, in words


def test_a_root_is_found_to_be_what_it_is(lsun, tmp_path):
    write_folder(tmp_path / "photos", NAMES)
    write_mnist(tmp_path / "idx")
    write_mnist(tmp_path / "set" / "FashionMNIST" / "raw")
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.uint8))
    roots = [lsun, lsun / "bedroom_train_lmdb", "photos", "idx", "idx/train-images-idx3-ubyte", "set", "a.npy"]
    assert [find_kind(tmp_path / root) for root in roots] == [
        *("lmdb", "lmdb", "folder", "idx", "idx", "FashionMNIST", "array")
    ]


class Rainbow:
    """A source of one's own, as configs/README.md shows how to write it."""

    def __init__(self, root, shades=4):
        self.shades, self.fingerprint = shades, (f"rainbow of {root}", shades)

    def __len__(self):
        return self.shades

    def read(self, index):
        return torch.full((3, 8, 8), index * 255 // (self.shades - 1), dtype=torch.uint8)

    def key(self, index):
        return b"shade %d" % index


def test_a_class_of_ones_own_is_a_source():
    data = LSUNDataModule("the sky", source="test_sources.Rainbow", source_args={"shades": 6}, image_size=8)
    assert data.dataset.images[:, 0, 0, 0].tolist() == [0, 51, 102, 153, 204, 255]
    assert data.attributes is None


def test_the_command_line_trains_on_lsuns_classes_and_goes_on(run, lsun, tmp_path):
    flags = ("--data.root", lsun, "--data.categories", "church_outdoor", "bedroom", *TINY[1:-3])
    flags += ("--model.width=4", "--model.latent_dim=2", "--accelerator=cpu", "--enable_progress_bar=false")
    assert run(*flags, "--max_epochs=1", "--prior=null", "--output", tmp_path / "a") == (0, "")
    assert load(tmp_path / "a")["hyper_parameters"]["num_images"] == 8
    assert run("--resume", tmp_path / "a", "--max_epochs=2") == (0, "")
    shutil.rmtree(lsun / "church_outdoor_train_lmdb")
    status, line = run("--resume", tmp_path / "a", "--max_epochs=3")
    assert (status, line.split(":")[0]) == (2, "--data.categories church_outdoor")


def test_a_folder_that_shrank_or_changed_since_the_checkpoint_is_named(run, tmp_path):
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
    assert (status, line.split(";")[0]) == (2, "--data.num_samples 8: rows are needed now, and the checkpoint has 12")
    status, line = run("--resume", tmp_path / "a", "--max_epochs=2")
    assert (status, line) == (2, f"--data.num_samples 10: {folder} has 8 images: give 1 to 8")


BAD = [
    ("--data.root empty", "--data.root", "holds no images, which are files that end in .bmp"),
    ("--data.root photos --data.categories bedroom", "--data.root", "is no LSUN folder"),
    ("--data.root lsun --data.categories church_outdor", "--data.categories church_outdor", "mean church_outdoor?"),
    ("--data.root lsun --data.categories bedroom bedroom", "--data.categories bedroom", "twice"),
    ("--data.categories bedroom", "--data.categories bedroom", "--data.root"),
    ("--data.source MNITS", "--data.source MNITS", "did you mean MNIST?"),
    ("--data.source celebA --data.root photos", "--data.root", "holds no whole CelebA"),
    ("--data.source zzzzzz", "--data.source zzzzzz", "there are lmdb, folder"),
    ("--data.source no.Source", "--data.source no.Source", "class"),
    ("--data.source folder", "--data.source folder", "--data.root"),
    ("--data.root photos --data.split test", "--data.split test", "--data.holdout"),
    ("--data.root photos --data.holdout_split train", "--data.holdout_split train", "--data.holdout"),
    ("--data.root photos --data.source_args.a 1", "--data.source_args", "takes none"),
    ("--data.root mixed", "key notes.jpg of", "--data.on_bad_record skip"),
    ("--data.root cut", "key cut.jpg of", "truncated"),
    ("--data.root floats.npy", "--data.root", "float64; give uint8"),
    ("--data.root flat.npy", "--data.root", "of shape 9x9"),
    ("--data.root objects.npy", "--data.root", "cannot be read as NumPy's"),
    ("--data.root cut.npz", "--data.root", "cannot be read as NumPy's"),
    ("--data.root cut_idx", "--data.root", "cannot be read as an IDX file"),
    ("--data.root idx --data.split val", "--data.split val", "val-images-idx3-ubyte"),
    ("--data.root two_sets", "--data.root", "holds CIFAR10 and STL10"),
    ("--data.root a.txt", "--data.root", "is a file"),
    ("--data.root nowhere", "--data.root", "does not exist"),
]


@pytest.fixture
def bad_inputs(lsun, tmp_path):
    write_folder(tmp_path / "photos", NAMES)
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    write_folder(tmp_path / "mixed", [f"{n}.png" for n in range(24)])
    (tmp_path / "mixed" / "notes.jpg").write_text("no image")
    write_folder(tmp_path / "cut", [f"{n}.png" for n in range(24)])
    whole = encode(RANDOM.integers(0, 256, (64, 64, 3), np.uint8), "JPEG")
    (tmp_path / "cut" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    np.save(tmp_path / "floats.npy", np.zeros((5, 8, 8)))
    np.save(tmp_path / "flat.npy", np.zeros((9, 9), np.uint8))
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "cut.npz", x=np.zeros((5, 8, 8), np.uint8))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:200])
    for name in ("idx", "cut_idx"):
        write_mnist(tmp_path / name)
    file = tmp_path / "cut_idx" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:500])
    for name in ("cifar-10-batches-py", "stl10_binary"):
        (tmp_path / "two_sets" / name).mkdir(parents=True)
    (tmp_path / "a.txt").write_text("x")


@pytest.mark.parametrize(("arguments", "first", "further"), BAD, ids=[arguments for arguments, *_ in BAD])
def test_wrong_data_end_in_one_line(run, bad_inputs, tmp_path, arguments, first, further):
    before = set(tmp_path.iterdir())
    status, line = run(*TINY[1:], "--model.latent_dim=2", *arguments.split())
    assert status == 2
    assert line.startswith(first)
    assert further in line
    assert set(tmp_path.iterdir()) == before


def test_what_is_no_image_in_a_folder_is_named_counted_and_skipped_on_request(bad_inputs, tmp_path, caplog):
    with caplog.at_level("INFO", "glo_lightning"):
        data = LSUNDataModule(tmp_path / "mixed", image_size=32, on_bad_record="skip")
        assert len(data.dataset.skipped) == 1
    assert "key notes.jpg of" in caplog.text
    assert "decoded 25 of 25 images, skipped 1" in caplog.text


def test_mixed_sizes_modes_and_animations_are_images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("L", (50, 20), 90).save(folder / "grey.png")
    Image.new("RGBA", (20, 60), (90, 90, 90, 255)).save(folder / "alpha.png")
    Image.new("P", (20, 60), 0).save(folder / "palette.gif")
    frames = [Image.new("RGB", (40, 40), (shade, 0, 0)) for shade in (90, 200)]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    source = open_source(folder)
    reds = {key: int(read_image(source, row, ImageFormat(32))[0, 16, 16]) for row, key in enumerate(keys_of(source))}
    assert reds == {"grey.png": 90, "alpha.png": 90, "palette.gif": 0, "moving.webp": 90, "moving.gif": 90}
