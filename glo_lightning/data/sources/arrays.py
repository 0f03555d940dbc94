"""Arrays of images: NumPy files, IDX files such as MNIST's, and tensors or arrays given in Python."""

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

from glo_lightning.data.source import NumberedSource, dataset_location, file_stamp, numbered_order
from glo_lightning.errors import InputError

SUFFIXES = {".npy", ".npz"}
IDX = {"train": "train", "test": "t10k"}  # the names of the splits in MNIST's file names
IMAGES, LABELS = "-images-idx3-ubyte", "-labels-idx1-ubyte"
# what zipfile, zlib and NumPy's header parser raise for damaged files
DAMAGED: tuple[type[Exception], ...] = (OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, MemoryError)
DAMAGED += (AssertionError, SyntaxError, OverflowError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)


class ArraySource(NumberedSource):
    """An array of images; a ``Source``.

    Attributes:
        channels: C.

    Args:
        images: uint8, (N, H, W) grey, (N, H, W, C) or (N, C, H, W), with C 1 or 3.
        labels: the ``class`` of each image, (N,), numbers or strings; or several such arrays by name.
        fingerprint: see ``Source``; computed from the content of an array that is given in Python.
        split: first part of the keys, such as ``train`` in ``train/7``.
        order: the number in the array of each row; 0 to N - 1 if not given.

    Raises:
        InputError: for an array of another type or shape.
    """

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: Any = None,
        fingerprint: tuple[Any, ...] | None = None,
        split: str = "train",
        order: Sequence[int] | None = None,
    ):
        location = "an array in memory" if fingerprint is None else fingerprint[0]
        self.images = _channels_first(torch.as_tensor(images).detach().cpu(), location)
        if fingerprint is None:
            digest = hashlib.sha256(np.ascontiguousarray(self.images.numpy()).data).hexdigest()
            fingerprint = (f"{location} of SHA-256 {digest}",)
        self.fingerprint = fingerprint
        self.split, self.channels = split, self.images.shape[1]
        self.order = range(len(self.images)) if order is None else order
        columns = labels if isinstance(labels, Mapping) else {} if labels is None else {"class": labels}
        self.columns = {name: [str(value) for value in np.asarray(column).tolist()] for name, column in columns.items()}
        for name, column in self.columns.items():
            if len(column) != len(self.images):
                remedy = f"has {len(column)} labels {name} for {len(self.images)} images. Give one for each."
                raise InputError("root", location, remedy)

    def read(self, index: int) -> Tensor:
        """Returns the pixels of row ``index``, (C, H, W)."""
        return self.images[self.order[index]]


def _channels_first(images: Tensor, location: object) -> Tensor:
    """Turns (N, H, W), (N, H, W, C) or (N, C, H, W) into (N, C, H, W)."""
    if images.dtype != torch.uint8:
        kind = str(images.dtype).removeprefix("torch.")
        raise InputError("root", location, f"holds numbers of type {kind}. Give uint8, from 0 to 255.")
    if images.numel() and images.ndim in (3, 4):
        if images.ndim == 3:
            return images[:, None]
        if images.shape[-1] in (1, 3):
            return images.permute(0, 3, 1, 2)
        if images.shape[1] in (1, 3):
            return images
    shape = "x".join(map(str, images.shape))
    remedy = f"has shape {shape}. Give N x H x W, N x H x W x C or N x C x H x W, with C 1 or 3."
    raise InputError("root", location, remedy)


def open_arrays(path: Path, split: str = "train") -> ArraySource:
    """Opens a ``.npy`` or ``.npz`` file.

    An ``.npz`` file has an array ``images`` or ``x``, or a single array of three or four dimensions; ``labels`` or
    ``y`` are optional. With several splits it has ``x_train`` and ``y_train``, or ``train_images`` and
    ``train_labels``.

    Raises:
        InputError: for a file that is not such a file, or has no images of this split.
    """
    try:
        with open(path, "rb") as file:  # NumPy leaves a damaged file open
            loaded = np.load(file, allow_pickle=False)
            arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except DAMAGED as error:
        reason = " ".join(str(error).split())
        remedy = f"cannot be read as a NumPy file ({reason}). Copy it again, or write it again."
        raise InputError("root", path, remedy) from error
    images, labels = _find_split(arrays, split, path)
    return _from_file(images, labels, path, split)


def _from_file(images: np.ndarray | Tensor, labels: Any, path: Path, split: str) -> ArraySource:
    fingerprint = (dataset_location(path, split), *file_stamp(path))
    return ArraySource(images, labels, fingerprint, split, numbered_order(split, len(images)) if images.ndim else None)


def _find_split(arrays: Mapping[str, np.ndarray], split: str, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    pairs = [(f"x_{split}", f"y_{split}"), (f"{split}_images", f"{split}_labels")]
    if split == "train":
        pictures = [name for name, array in arrays.items() if array.ndim in (3, 4)]
        pairs += [("images", "labels"), ("x", "y"), *((name, "labels") for name in pictures if len(pictures) == 1)]
    for images, labels in pairs:
        if images in arrays:
            return arrays[images], arrays[labels].reshape(-1) if labels in arrays else None
    raise InputError("split", split, f"{path} has no images of it. It has the arrays {', '.join(arrays) or 'none'}.")


def find_idx(root: Path, split: str = "train") -> Path | None:
    """Finds MNIST's file of a split's images: ``root`` itself, or in it, its ``raw`` or ``MNIST/raw``; else None."""
    if root.is_file():
        return root if root.name.endswith(IMAGES) else None
    files = [folder / f"{IDX.get(split, split)}{IMAGES}" for folder in (root, root / "raw", root / "MNIST" / "raw")]
    return next((file for file in files if file.is_file()), None)


def open_idx(root: Path, split: str = "train") -> ArraySource:
    """Opens an IDX file of images, with the classes from the file of labels beside it, where there is one.

    Raises:
        InputError: when there is no such file of this split, or it is damaged.
    """
    from torchvision.datasets.mnist import read_image_file, read_label_file

    images = find_idx(root, split)
    if images is None:
        name = f"{IDX.get(split, split)}{IMAGES}"
        raise InputError(
            "split", split, f"{root} has no file {name} (unpacked, not .gz). Give the folder of MNIST's files."
        )
    labels = images.with_name(images.name.removesuffix(IMAGES) + LABELS)
    path = images
    try:
        pixels = read_image_file(os.fspath(images))
        path = labels
        classes = read_label_file(os.fspath(labels)) if labels.is_file() else None
    except DAMAGED as error:
        raise InputError("root", path, f"cannot be read as an IDX file ({error}). Copy it again.") from error
    return _from_file(pixels, classes, images, split)
