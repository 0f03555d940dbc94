"""Images out of arrays: NumPy's files, IDX files as MNIST has them, and tensors or arrays given in Python."""

from __future__ import annotations

import hashlib
import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glo_lightning.data.source import dataset_location, file_stamp, numbered_key, numbered_order
from glo_lightning.errors import InputError

SUFFIXES = {".npy", ".npz"}
IDX = {"train": "train", "test": "t10k"}  # how MNIST's files name their splits
IMAGES, LABELS = "-images-idx3-ubyte", "-labels-idx1-ubyte"
# what damaged files raise in zipfile, zlib and NumPy's reader of headers
DAMAGED: tuple[type[Exception], ...] = (OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, MemoryError)
DAMAGED += (AssertionError, SyntaxError, OverflowError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)


class ArraySource:
    """Images that are an array; a ``Source``.

    Attributes:
        channels: C.

    Args:
        images: uint8, (N, H, W) grey, (N, H, W, C) or (N, C, H, W), C 1 or 3.
        labels: (N,), of each image its ``class``, numbers or texts; or such arrays by name.
        fingerprint: the place, and what changes with the content; of an array given in Python its content.
        split: what the keys begin with, before the number in the array, such as ``train/7``.
        order: of the rows; that of the array if not given.

    Raises:
        InputError: for an array that is not of this kind.
    """

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: Any = None,
        fingerprint: tuple[Any, ...] | None = None,
        split: str = "train",
        order: Sequence[int] | None = None,
    ):
        place = "an array in memory" if fingerprint is None else fingerprint[0]
        self.images = _channels_first(torch.as_tensor(images).detach().cpu(), place)
        self.fingerprint = fingerprint or (f"{place} of SHA-256 {_digest(self.images)}",)
        self.split, self.order, self.channels = split, order, self.images.shape[1]
        named = labels if isinstance(labels, Mapping) else {} if labels is None else {"class": labels}
        self._labels = {name: [str(value) for value in np.asarray(column).tolist()] for name, column in named.items()}
        for name, column in self._labels.items():
            if len(column) != len(self.images):
                remedy = f"holds {len(column)} labels {name} for {len(self.images)} images; give one for each"
                raise InputError("root", place, remedy)

    def __len__(self) -> int:
        return len(self.images)

    def _position(self, index: int) -> int:
        return index if self.order is None else self.order[index]

    def key(self, index: int) -> bytes:
        return numbered_key(self.split, self._position(index))

    def read(self, index: int) -> Tensor:
        """The pixels of row ``index``, (C, H, W)."""
        return self.images[self._position(index)]

    def labels(self, index: int) -> dict[str, str]:
        return {name: column[self._position(index)] for name, column in self._labels.items()}


def _of_file(images: np.ndarray | Tensor, labels: Any, path: Path, split: str) -> ArraySource:
    fingerprint = (dataset_location(path, split), *file_stamp(path))
    return ArraySource(images, labels, fingerprint, split, numbered_order(split, len(images)) if images.ndim else None)


def _channels_first(images: Tensor, place: object) -> Tensor:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) as the last of these."""
    if images.dtype != torch.uint8:
        kind = str(images.dtype).removeprefix("torch.")
        raise InputError("root", place, f"holds numbers of type {kind}; give uint8, from 0 to 255")
    if images.numel() and images.ndim == 3:
        return images[:, None]
    if images.numel() and images.ndim == 4 and images.shape[-1] in (1, 3):
        return images.permute(0, 3, 1, 2)
    if images.numel() and images.ndim == 4 and images.shape[1] in (1, 3):
        return images
    shape = "x".join(map(str, images.shape))
    raise InputError("root", place, f"is of shape {shape}; give N x H x W, N x H x W x C or N x C x H x W, C 1 or 3")


def _digest(images: Tensor) -> str:
    return hashlib.sha256(np.ascontiguousarray(images.numpy()).data).hexdigest()


def open_arrays(path: Path, split: str = "train") -> ArraySource:
    """The images of a ``.npy`` or ``.npz`` file.

    An ``.npz`` file has an array ``images`` or ``x``, or a single one of three or four dimensions, and may have
    ``labels`` or ``y``; of several splits it has ``x_train`` and ``y_train``, or ``train_images`` and ``train_labels``.

    Raises:
        InputError: for a file that is none, or has no images of this split.
    """
    try:
        with open(path, "rb") as file:  # NumPy leaves a damaged one open
            loaded = np.load(file, allow_pickle=False)
            arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except DAMAGED as error:
        remedy = f"cannot be read as NumPy's ({' '.join(str(error).split())}); copy it again, or make it anew"
        raise InputError("root", path, remedy) from error
    images, labels = _of_split(arrays, split, path)
    return _of_file(images, labels, path, split)


def _of_split(arrays: Mapping[str, np.ndarray], split: str, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    pairs = [(f"x_{split}", f"y_{split}"), (f"{split}_images", f"{split}_labels")]
    if split == "train":
        pictures = [name for name, array in arrays.items() if array.ndim in (3, 4)]
        pairs += [("images", "labels"), ("x", "y"), *((name, "labels") for name in pictures if len(pictures) == 1)]
    for images, labels in pairs:
        if images in arrays:
            known = arrays.get(labels)
            return arrays[images], None if known is None else known.reshape(-1)
    remedy = f"{path} has no images of it; it has the arrays {', '.join(arrays) or 'none'}"
    raise InputError("split", split, remedy)


def find_idx(root: Path, split: str = "train") -> Path | None:
    """MNIST's file of images of a split: ``root`` itself, or in it, its ``raw`` or its ``MNIST/raw``; None without."""
    if root.is_file():
        return root if root.name.endswith(IMAGES) else None
    names = [folder / f"{IDX.get(split, split)}{IMAGES}" for folder in (root, root / "raw", root / "MNIST" / "raw")]
    return next((name for name in names if name.is_file()), None)


def open_idx(root: Path, split: str = "train") -> ArraySource:
    """The images of an IDX file, and their classes out of the file of labels beside it, where there is one.

    Raises:
        InputError: where there is none of this split, or it is damaged.
    """
    from torchvision.datasets.mnist import read_image_file, read_label_file

    images = find_idx(root, split)
    if images is None:
        remedy = (
            f"{root} has no file {IDX.get(split, split)}{IMAGES} (unpacked, not .gz); give the folder of MNIST's files"
        )
        raise InputError("split", split, remedy)
    labels = images.with_name(images.name.removesuffix(IMAGES) + LABELS)
    path = images
    try:
        pixels = read_image_file(os.fspath(images))
        path = labels
        classes = read_label_file(os.fspath(labels)) if labels.is_file() else None
    except DAMAGED as error:
        raise InputError("root", path, f"cannot be read as an IDX file ({error}); copy it again") from error
    return _of_file(pixels, classes, images, split)
