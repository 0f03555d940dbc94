import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from image_sets import RANDOM, in_digest_order, keys_of, md5, numbers_of, write_celeba, write_idx, write_mnist
from PIL import Image

from glo_lightning import LSUNDataModule
from glo_lightning.data.source import read_image
from glo_lightning.data.sources.arrays import ArraySource
from glo_lightning.data.sources.find import open_source
from glo_lightning.errors import InputError
from glo_lightning.images import ImageFormat
from glo_lightning.locks import Lock


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


def test_an_unknown_pickle_is_never_loaded(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    for name in ("data_batch_3", "batches.meta"):
        file = tmp_path / "cifar-10-batches-py" / name
        whole = file.read_bytes()
        file.write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(InputError, match="holds no complete CIFAR10"):
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
    with pytest.raises(InputError, match=r"split valid: is not a split of STL10 .*unlabeled"):
        open_source(tmp_path, split="valid")


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


def test_an_eps_among_the_images_of_a_set_starts_no_program(tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    names = write_celeba(tmp_path / "set", monkeypatch)
    source = open_source(tmp_path / "set")
    first = tmp_path / "set" / "celeba" / "img_align_celeba" / names[numbers_of(source)[0]]
    Image.new("RGB", (9, 9)).save(first, "EPS")
    with pytest.raises(InputError, match="is not an image"):
        read_image(source, 0, ImageFormat(32))
    assert not (tmp_path / "started").exists()


def test_datasets_and_splits_in_one_folder_are_cached_apart(tmp_path):
    for name in ("MNIST", "FashionMNIST"):
        write_mnist(tmp_path / name / "raw")
    choices = [(name, split) for name in ("MNIST", "FashionMNIST") for split in ("train", "test")]
    files = [LSUNDataModule(tmp_path, source=name, split=split).dataset.file for name, split in choices]
    np.savez(tmp_path / "a.npz", x_train=np.zeros((5, 8, 8), np.uint8), x_test=np.zeros((2, 8, 8), np.uint8))
    files += [LSUNDataModule(tmp_path / "a.npz", split=split).dataset.file for split in ("train", "test")]
    for value in (1, 2):
        array = ArraySource(np.full((5, 8, 8), value, np.uint8))
        files.append(LSUNDataModule(source=array).dataset.file)
    assert all(file.exists() for file in files)
    assert len(set(files)) == len(files)


def test_emnists_variant_is_an_argument_and_its_split_is_a_split(tmp_path):
    for variant, number in (("letters", 7), ("balanced", 5)):
        for part in ("train", "test"):
            raw = tmp_path / "EMNIST" / "raw"
            write_idx(raw / f"emnist-{variant}-{part}-images-idx3-ubyte", RANDOM.integers(0, 256, (number, 28, 28)))
            write_idx(raw / f"emnist-{variant}-{part}-labels-idx1-ubyte", np.ones(number))
    assert len(open_source(tmp_path)) == 5
    letters = open_source(tmp_path, {"class_path": "EMNIST", "split": "letters"}, split="test")
    assert (len(letters), letters.labels(0)) == (7, {"class": "a"})
    with pytest.raises(InputError, match=r"source EMNIST: does not take its arguments .*sprit"):
        open_source(tmp_path, {"class_path": "EMNIST", "sprit": "letters"})


def test_a_download_that_fails_leaves_nothing(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    def download(self):
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / "train-images-idx3-ubyte").write_bytes(b"half")
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nno network")

    monkeypatch.setattr(MNIST, "download", download)
    with pytest.raises(
        InputError, match=r"download true: MNIST cannot be downloaded \(Error downloading .* no network\)"
    ):
        open_source(tmp_path / "sets", "mnist", download=True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(MNIST, "download", lambda self: write_mnist(Path(self.raw_folder)))
    assert len(open_source(tmp_path / "sets", "mnist", download=True)) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]


def test_two_processes_do_not_download_into_one_folder(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "download", lambda self: write_mnist(Path(self.raw_folder)))
    other = Lock(tmp_path / ".sets.lock")
    assert other.acquire()
    with pytest.raises(InputError, match="is downloading into"):
        open_source(tmp_path / "sets", "mnist", download=True)
    other.release()
    assert len(open_source(tmp_path / "sets", "mnist", download=True)) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]
