"""torchvision's datasets, read by torchvision from their original files."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import inspect
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glo_lightning.data.source import NumberedSource, dataset_location, numbered_order
from glo_lightning.errors import InputError
from glo_lightning.files import cache_folder
from glo_lightning.images import reading_image
from glo_lightning.locks import Lock

# Datasets whose readers unpickle no unknown file: CIFAR's files are pickles, and torchvision loads them only after it
# has compared their MD5 with the authors'.
SETS: tuple[str, ...] = ("MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST", "USPS", "SVHN", "CIFAR10", "CIFAR100")
SETS += ("STL10", "CelebA", "Country211", "DTD", "EuroSAT", "FGVCAircraft", "Flowers102", "Food101", "GTSRB")
SETS += ("Imagenette", "OxfordIIITPet", "PCAM", "RenderedSST2", "StanfordCars", "SUN397")
VARIANTS = {"EMNIST": {"split": "balanced"}}  # EMNIST's "split" is a variant; ours is train or test
# patterns of files and folders by which a dataset is recognised
MARKS = {"cifar-10-batches-py": "CIFAR10", "cifar-100-python": "CIFAR100", "stl10_binary": "STL10"}
MARKS |= {"train_32x32.mat": "SVHN", "celeba": "CelebA"}
MARKS |= {f"{name}/raw/*-ubyte": name for name in ("MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST")}
# what its readers raise for missing, truncated and changed files, and its downloads without a network
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, LookupError, AssertionError, TypeError, ImportError)
NO_NETWORK = (*UNREADABLE, http.client.HTTPException)


class TorchvisionSource(NumberedSource):
    """The images of one split of a torchvision dataset, sorted by the SHA-256 of their keys; a ``Source``.

    A key is the split and the number in it, such as ``train/7``. Labels are the ``class``, by name where torchvision
    has names, or CelebA's attributes, ``1`` or ``0``. Image files are assumed not to change.

    Attributes:
        channels: 1 for grey images, else 3.

    Args:
        name: name of torchvision's class, one of ``SETS``.
        root: the folder that torchvision takes; one in the user's cache folder for None.
        download: whether missing files are downloaded. A download is complete or leaves nothing.
        arguments: further arguments of the class, such as EMNIST's ``split``.

    Raises:
        InputError: for a split that does not exist, missing or damaged files, and a download that fails.
    """

    def __init__(
        self,
        name: str,
        root: str | os.PathLike[str] | None,
        split: str = "train",
        download: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ):
        self.name, self.split = name, split
        self.root = cache_folder() / "sets" if root is None else Path(root).expanduser().absolute()
        self.images = self._load(download, {**VARIANTS.get(name, {}), **(arguments or {})})
        self.order = numbered_order(split, len(self.images))
        if not self.order:
            raise InputError("root", self.root, f"holds no image of {name}, split {split}. Copy it again.")
        self.columns = _label_columns(self.images)
        data = getattr(self.images, "data", None)  # the pixels, where torchvision keeps them in memory
        self.channels = 1 if data is not None and data.ndim == 3 else 3
        digest = "" if data is None else hashlib.sha256(np.ascontiguousarray(data).data).hexdigest()
        variant = " ".join([name, *(f"{key}={value}" for key, value in sorted((arguments or {}).items()))])
        self.fingerprint = (dataset_location(self.root, split, variant), len(self.order), digest)

    def _load(self, download: bool, arguments: Mapping[str, Any]) -> Any:
        from torchvision import datasets  # a second of import that other sources need not wait for

        make = getattr(datasets, self.name)
        keywords = {**arguments, **self._split_argument(inspect.signature(make).parameters)}
        try:
            return make(self.root, **keywords)
        except UNREADABLE as error:
            reason = " ".join(str(error).split())
            if "for argument split" in reason:
                raise InputError("split", self.split, f"is not a split of {self.name} ({reason}).") from error
            if "keyword argument" in reason:
                raise InputError("source", self.name, f"does not take its arguments ({reason}).") from error
            if not download:
                remedy = f"holds no complete {self.name} ({reason})."
                remedy += " Give the folder that torchvision takes, --data.download true, or --data.source folder."
                raise InputError("root", self.root, remedy) from error
        try:
            with _download_folder(self.root) as folder:
                make(folder, download=True, **keywords)
            return make(self.root, **keywords)
        except InputError:
            raise
        except NO_NETWORK as error:
            reason = " ".join(str(error).split())
            remedy = f"{self.name} cannot be downloaded ({reason}). Put its files into {self.root}."
            raise InputError("download", "true", remedy) from error

    def _split_argument(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the argument by which torchvision's class takes the split."""
        if "train" in parameters or self.name in VARIANTS:
            if self.split not in ("train", "test"):
                raise InputError("split", self.split, f"{self.name} has the splits train and test. Give one of them.")
            return {"train": self.split == "train"}
        if "split" in parameters:
            return {"split": self.split}
        if self.split != "train":
            raise InputError("split", self.split, f"{self.name} has no splits. Leave it out, and give --data.holdout.")
        return {}

    def read(self, index: int) -> Image.Image:
        """Returns the image of row ``index``; see ``reading_image`` for errors."""
        with reading_image():
            return self.images[self.order[index]][0]


def _label_columns(images: Any) -> dict[str, Sequence[str | None]]:
    """Returns the labels of all images, in torchvision's order, by name; None where an image has none."""
    if hasattr(images, "attr"):  # CelebA; the last of its names is empty
        columns = zip(images.attr_names, images.attr.T.tolist(), strict=False)
        return {name: list(map(str, column)) for name, column in columns}
    numbers = next((getattr(images, key) for key in ("targets", "labels", "_labels") if hasattr(images, key)), None)
    if numbers is None:
        return {}
    names = [str(name).partition(" - ")[0] for name in getattr(images, "classes", [])]  # MNIST's are "7 - seven"

    def name_of(number: int) -> str | None:
        return None if number < 0 else names[number] if number < len(names) else str(number)

    return {"class": [name_of(number) for number in np.asarray(numbers).tolist()]}


@contextlib.contextmanager
def _download_folder(root: Path) -> Iterator[Path]:
    """Yields a temporary folder to download into; moves its files to ``root`` once all are there."""
    root.parent.mkdir(parents=True, exist_ok=True)
    lock, temporary = Lock(root.with_name(f".{root.name}.lock")), root.with_name(f".{root.name}.download")
    if not lock.acquire():
        raise InputError("download", "true", f"{lock.holder()} is downloading into {root}. Wait for it.")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        shutil.copytree(temporary, root, copy_function=shutil.move, dirs_exist_ok=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        lock.release()


def find_set(root: Path) -> str | None:
    """Returns the name of the dataset in a folder; None where there is none.

    Raises:
        InputError: for a folder of several datasets.
    """
    found = [name for mark, name in MARKS.items() if any(root.glob(mark))]
    if len(found) > 1:
        raise InputError("root", root, f"holds {' and '.join(found)}. Choose one by --data.source {found[0]}.")
    return found[0] if found else None
