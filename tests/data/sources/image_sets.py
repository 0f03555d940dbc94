"""Small files of each format, written as that format's own library writes them, and what a source's keys are."""

import hashlib
from pathlib import Path

import numpy as np
from conftest import flat_image
from PIL import Image

from glo_lightning.data.source import Source

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
        images = RANDOM.integers(0, 256, (number, 28, 28))
        labels = RANDOM.permutation(np.arange(number) % 10)  # every class is there, whatever ran before
        write_idx(folder / f"{name}-images-idx3-ubyte", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels)
        made[split] = images, labels
    return made


NAMES = ["cats/1.png", "cats/deep/2.PNG", "dogs/1.png", "dogs/3.webp", "loose.png"]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


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
