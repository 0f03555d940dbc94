import gzip

import numpy as np
import pytest
import torch
from image_sets import RANDOM, in_digest_order, keys_of, numbers_of, write_mnist

from glo_lightning import LSUNDataModule
from glo_lightning.data.sources.arrays import ArraySource
from glo_lightning.data.sources.find import open_source
from glo_lightning.errors import InputError


@pytest.mark.parametrize("shape", [(20, 9, 9), (20, 9, 9, 1), (20, 1, 9, 9), (20, 9, 9, 3), (20, 3, 9, 9)])
def test_arrays_are_sorted_by_the_digest_of_split_and_number(tmp_path, shape):
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
def test_an_archive_has_splits_by_the_names_of_its_arrays(tmp_path, names):
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


ODD_SHAPES = [(200, 200, 3), (3, 9, 9), (9, 9, 4), (9, 9, 1), (9, 9, 9, 4), (5, 3, 9, 3), (5, 1, 1, 1), (0, 9, 9)]


@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_an_array_that_could_be_one_image_or_no_images_is_refused(shape):
    with pytest.raises(InputError, match=f"has shape {'x'.join(map(str, shape))}. Give N x H x W x C"):
        ArraySource(np.zeros(shape, np.uint8))
    if shape in ((200, 200, 3), (3, 9, 9)):  # as the message says
        assert len(ArraySource(np.zeros((1, *shape), np.uint8))) == 1


@pytest.mark.parametrize("kind", [">u2", "f8", "?", "S3", "U3", "V2", "M8[s]", "g", "c8", "u1,u1", ">i4", "i1"])
def test_an_array_of_another_type_is_refused(tmp_path, kind):
    np.save(tmp_path / "a.npy", np.zeros((9, 8, 8, 3), kind))
    with pytest.raises(InputError, match=r"holds numbers of type .*\. Give uint8, from 0 to 255\.$") as error:
        open_source(tmp_path / "a.npy")
    assert len(str(error.value).splitlines()) == 1


def test_a_tensor_given_in_python_trains(tmp_path):
    images = torch.arange(12, dtype=torch.uint8)[:, None, None].expand(12, 8, 8)
    data = LSUNDataModule(source=ArraySource(images, {"parity": [n % 2 for n in range(12)]}), image_size=8, holdout=2)
    assert data.num_images == 10
    assert data.dataset[[3, 4]][0][:, 0, 0, 0].tolist() == [3, 4]
    assert data.attributes.rows(["parity=1"]).tolist() == [1, 3, 5, 7, 9, 11]


def test_labels_are_strings_or_unknown(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.array([b"cat", b"dog", b"", "\u00e9".encode()]))
    source = open_source(tmp_path / "a.npz")
    assert [source.labels(numbers_of(source).index(n))["class"] for n in range(4)] == ["cat", "dog", "", "é"]
    given = ArraySource(np.zeros((2, 8, 8), np.uint8), ["cat", None])
    assert (given.labels(0), given.labels(1)) == ({"class": "cat"}, {})


def test_views_of_an_array_are_images():
    images = RANDOM.integers(0, 256, (5, 8, 9, 3), np.uint8)
    mirrored = ArraySource(images[::-1, :, ::-1, ::-1]).read(4)
    assert np.array_equal(mirrored.numpy(), images[0, :, ::-1, ::-1].transpose(2, 0, 1))
    assert torch.equal(ArraySource(np.asfortranarray(images)).read(1), ArraySource(torch.from_numpy(images)).read(1))


def test_arrays_that_are_nearly_black_are_told_of(caplog):
    ArraySource(RANDOM.integers(0, 17, (9, 8, 8), np.uint8))  # as scikit-learn's digits
    assert "no number above 16 of 255 and are nearly black" in caplog.text
    caplog.clear()
    ArraySource(RANDOM.integers(0, 256, (9, 8, 8), np.uint8))
    assert not caplog.text


def test_an_archive_is_read_as_far_as_it_is_needed(tmp_path, monkeypatch):
    """Other arrays of it may be objects, which are never unpickled; more than fits in memory is refused before."""
    images = RANDOM.integers(0, 256, (4, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, about=np.array([{}, []], dtype=object))
    assert len(open_source(tmp_path / "a.npz")) == 4
    monkeypatch.setattr("glo_lightning.memory.free_memory", lambda: 200)
    with pytest.raises(InputError, match=r"its arrays would take .* GB of memory"):
        open_source(tmp_path / "a.npz")


@pytest.mark.parametrize("is_packed", [False, True])
def test_idx_files_are_read_with_their_labels(tmp_path, is_packed):
    """As MNIST's authors and Debian have them, by gzip, or unpacked."""
    made = write_mnist(tmp_path / "mnist")
    for file in (tmp_path / "mnist").iterdir() if is_packed else []:
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    for split, (images, labels) in made.items():
        source = open_source(tmp_path / "mnist", split=split)
        numbers = numbers_of(source)
        assert keys_of(source) == in_digest_order([f"{split}/{n}" for n in range(len(images))])
        assert np.array_equal(np.stack([source.read(row)[0].numpy() for row in range(len(source))]), images[numbers])
        assert [source.labels(row)["class"] for row in range(len(source))] == labels[numbers].astype(str).tolist()
        assert source.channels == 1
    data = LSUNDataModule(tmp_path / "mnist", image_size=8, holdout_split="test")
    assert (data.num_images, data.holdout, data.num_channels) == (30, 12, 1)


def test_the_files_of_one_split_alone_are_idx(tmp_path):
    write_mnist(tmp_path)
    for file in tmp_path.glob("train*"):
        file.unlink()
    assert len(open_source(tmp_path, split="test")) == 12
    with pytest.raises(InputError, match=r"split train: .* has no file train-images-idx3-ubyte or train-images"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no header of unsigned bytes in 3 dimensions"),
        (bytes([0, 0, 8, 1]) + bytes(20), "it has no header"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 9]), "requires a buffer of 12 bytes"),
        (bytes([0, 0, 8, 3]) + np.array([9, 2, 2], ">i4").tobytes() + bytes(35), "cannot reshape"),
        (bytes([0, 0, 8, 3]) + np.array([9, 2, 2], ">i4").tobytes() + bytes(37), "cannot reshape"),
        (bytes([0, 0, 8, 3]) + b"\x7f" * 12, "GB of memory"),
    ],
)
def test_an_invalid_idx_file_is_refused(tmp_path, content, message):
    for packed in (content, gzip.compress(content)):
        (tmp_path / "train-images-idx3-ubyte").write_bytes(packed)
        with pytest.raises(InputError, match=message):
            open_source(tmp_path)
