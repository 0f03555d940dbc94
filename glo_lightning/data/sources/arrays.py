"""Arrays of images: NumPy files, IDX files such as MNIST's, and tensors or arrays given in Python."""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glo_lightning.data.source import NumberedSource, dataset_location, file_stamp, numbered_order
from glo_lightning.errors import InputError, decoding
from glo_lightning.memory import check_fits

log = logging.getLogger(__name__)

SUFFIXES = {".npy", ".npz"}
IDX = {"train": "train", "test": "t10k"}  # the names of the splits in MNIST's file names
IMAGES = "-images-idx3-ubyte"


class ArraySource(NumberedSource):
    """An array of images; a ``Source``.

    Attributes:
        channels: C.

    Args:
        images: uint8, (N, H, W, C) or (N, C, H, W), with C 1 or 3; or grey, (N, H, W), unless it could be one image
            (H, W, C) or (C, H, W).
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
        self.images = _channels_first(images, location)
        largest = int(self.images[:1000].max())
        if largest < 32:
            log.warning("%s: its first images hold no number above %d of 255 and are nearly black", location, largest)
        if fingerprint is None:
            digest = hashlib.sha256(np.ascontiguousarray(self.images.numpy()).data).hexdigest()
            fingerprint = (f"{location} of SHA-256 {digest}",)
        self.fingerprint = fingerprint
        self.split, self.channels = split, self.images.shape[1]
        self.order = range(len(self.images)) if order is None else order
        columns = labels if isinstance(labels, Mapping) else {} if labels is None else {"class": labels}
        self.columns: dict[str, list[str | None]] = {}
        for name, column in columns.items():
            values = np.asarray(column).tolist()
            if len(values) != len(self.images):
                remedy = f"has {len(values)} labels {name} for {len(self.images)} images. Give one for each."
                raise InputError("root", location, remedy)
            self.columns[name] = [_label(value) for value in values]

    def read(self, index: int) -> Tensor:
        """Returns the pixels of row ``index``, (C, H, W)."""
        return self.images[self.order[index]]


def _label(value: Any) -> str | None:
    value = value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
    return None if value is None else str(value)


def _channels_first(images: np.ndarray | Tensor, location: object) -> Tensor:
    """Turns (N, H, W), (N, H, W, C) or (N, C, H, W) into (N, C, H, W)."""
    if not isinstance(images, Tensor):
        images = np.ascontiguousarray(images)  # torch takes no view from right to left, such as BGR images as RGB
    kind = str(images.dtype).removeprefix("torch.")
    if kind != "uint8":  # before torch sees it, which has fewer types than NumPy
        raise InputError("root", location, f"holds numbers of type {kind}. Give uint8, from 0 to 255.")
    images = torch.as_tensor(images).detach().cpu()
    shape = tuple(images.shape)
    if images.numel() and len(shape) == 3:
        could_be_one_image = shape[0] == 3 or shape[2] in (1, 3, 4)
        if not could_be_one_image:
            return images[:, None]
    elif images.numel() and len(shape) == 4 and (shape[1] in (1, 3)) != (shape[3] in (1, 3)):
        return images if shape[1] in (1, 3) else images.permute(0, 3, 1, 2)
    sizes = "x".join(map(str, shape)) or "()"
    remedy = f"has shape {sizes}. Give N x H x W x C or N x C x H x W, with C 1 or 3; also where N is 1."
    raise InputError("root", location, remedy)


def open_arrays(path: Path, split: str = "train") -> ArraySource:
    """Opens a ``.npy`` or ``.npz`` file.

    An ``.npz`` file has an array ``images`` or ``x``, or a single array of three or four dimensions; ``labels`` or
    ``y`` are optional. With several splits it has ``x_train`` and ``y_train``, or ``train_images`` and
    ``train_labels``.

    Raises:
        InputError: for a file that is not such a file, or has no images of this split.
    """
    with decoding("root", path, "Give a whole NumPy file."), open(path, "rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            images, labels = _find_split({"images": loaded}, split, path)
        else:  # a mapping that reads an array when it is asked for
            check_fits("root", path, "its arrays", sum(array.file_size for array in loaded.zip.infolist()))
            images, labels = _find_split(loaded, split, path)
    return _from_file(images, labels, path, split)


def _from_file(images: np.ndarray, labels: np.ndarray | None, path: Path, split: str) -> ArraySource:
    fingerprint = (dataset_location(path, split), *file_stamp(path))
    return ArraySource(images, labels, fingerprint, split, numbered_order(split, len(images)) if images.ndim else None)


def _find_split(arrays: Mapping[str, np.ndarray], split: str, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    pairs = [(f"x_{split}", f"y_{split}"), (f"{split}_images", f"{split}_labels")]
    pairs += [("images", "labels"), ("x", "y")] if split == "train" else []
    found = next((pair for pair in pairs if pair[0] in arrays), None)
    if found is None and split == "train":
        pictures = [name for name, array in arrays.items() if array.ndim in (3, 4)]
        found = (pictures[0], "labels") if len(pictures) == 1 else None
    if found is None:
        names = ", ".join(arrays) or "none"
        raise InputError("split", split, f"{path} has no images of it. It has the arrays {names}.")
    images, labels = found
    return arrays[images], arrays[labels].reshape(-1) if labels in arrays else None


def find_idx(root: Path, split: str | None = None) -> Path | None:
    """Finds MNIST's file of images, of any split for None: ``root`` itself, or in it, its ``raw`` or ``*/raw``.

    A file has one split, ``train``, whatever its name: it must not be held out as well.
    """
    if root.is_file():
        return root if split in (None, "train") and root.name.removesuffix(".gz").endswith(IMAGES) else None
    name = "*" if split is None else IDX.get(split, split)
    files = [file for folder in ("", "raw/", "*/raw/") for file in sorted(root.glob(f"{folder}{name}{IMAGES}*"))]
    return next((file for file in files if file.is_file()), None)


def open_idx(root: Path, split: str = "train") -> ArraySource:
    """Opens an IDX file of images, with the classes from the file of labels beside it, where there is one.

    Raises:
        InputError: when there is no such file of this split, or it is damaged.
    """
    path = find_idx(root, split)
    if path is None:
        name = f"{IDX.get(split, split)}{IMAGES}"
        raise InputError("split", split, f"{root} has no file {name} or {name}.gz. Give the folder of MNIST's files.")
    name = path.name.removesuffix(".gz").replace(IMAGES, "-labels-idx1-ubyte")
    labels = next((file for file in (path.with_name(name), path.with_name(f"{name}.gz")) if file.is_file()), None)
    return _from_file(_read_idx(path, 3), None if labels is None else _read_idx(labels, 1), path, split)


def _read_idx(path: Path, num_dimensions: int) -> np.ndarray:
    """Reads an IDX file of unsigned bytes: 0, 0, 8, the number of dimensions, the big-endian sizes, the bytes."""
    with open(path, "rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    with decoding("root", path, "Give a whole IDX file."), gzip.open(path) if is_packed else open(path, "rb") as file:
        if file.read(4) != bytes([0, 0, 8, num_dimensions]):
            raise ValueError(f"it has no header of unsigned bytes in {num_dimensions} dimensions")
        shape = struct.unpack(f">{num_dimensions}I", file.read(4 * num_dimensions))
        check_fits("root", path, "its content", math.prod(shape))
        content = bytearray(file.read(math.prod(shape) + 1))
        return np.frombuffer(content, np.uint8).reshape(shape)
