"""torchvision's sets, read by its own readers from the files that they come in."""

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

from glo_lightning.data.source import dataset_location, numbered_key, numbered_order
from glo_lightning.errors import InputError
from glo_lightning.images import reading_image

# Sets of pictures whose readers unpickle nothing but what is known: CIFAR's files are pickles, which torchvision loads
# after it has found their MD5 to be that of the authors' files, and no others.
SETS: tuple[str, ...] = ("MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST", "USPS", "SVHN", "CIFAR10", "CIFAR100")
SETS += ("STL10", "CelebA", "Country211", "DTD", "EuroSAT", "FGVCAircraft", "Flowers102", "Food101", "GTSRB")
SETS += ("Imagenette", "OxfordIIITPet", "PCAM", "RenderedSST2", "StanfordCars", "SUN397")
VARIANTS = {"EMNIST": {"split": "balanced"}}  # what EMNIST calls a split is not one of training and test
# what tells a set by a file or folder in its root
MARKS = {"cifar-10-batches-py": "CIFAR10", "cifar-100-python": "CIFAR100", "stl10_binary": "STL10"}
MARKS |= {"train_32x32.mat": "SVHN", "celeba": "CelebA"}
MARKS |= {f"{name}/raw": name for name in ("MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST")}
# what its readers raise where files are missing, cut off or changed, and its downloads without a network
NOT_THERE = (OSError, RuntimeError, ValueError, EOFError, LookupError, AssertionError, TypeError, ImportError)
NO_NETWORK = (*NOT_THERE, http.client.HTTPException)


class TorchvisionSource:
    """The images of a set of torchvision's, in the order of the SHA-256 of their keys; a ``Source``.

    A key is the split and the number in it, such as ``train/7``. A label is the ``class``, by its name where
    torchvision has names, or one of CelebA's attributes, ``1`` or ``0``. Image files are taken to stay as they were.

    Attributes:
        channels: 1 for a set that is grey, else 3.

    Args:
        name: of torchvision's class, one of ``SETS``.
        root: the folder that torchvision takes.
        split: ``train``, ``test`` or what else the set has.
        download: fetches the files where they are missing, all or none.
        arguments: further ones of the class, such as EMNIST's ``split``.

    Raises:
        InputError: for a split that the set does not have, files that are missing or damaged, a download that fails.
    """

    def __init__(
        self,
        name: str,
        root: str | os.PathLike[str],
        split: str = "train",
        download: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ):
        self.name, self.split, self.root = name, split, Path(root).expanduser().absolute()
        self.images = self._load(download, {**VARIANTS.get(name, {}), **(arguments or {})})
        self.order = numbered_order(split, len(self.images))
        if not self.order:
            raise InputError("root", self.root, f"holds no image of {name}, split {split}; copy it again")
        self._known = _known(self.images)
        data = getattr(self.images, "data", None)  # the pixels, of a set that has them in memory
        self.channels = 1 if data is not None and data.ndim == 3 else 3
        digest = "" if data is None else hashlib.sha256(np.ascontiguousarray(data).data).hexdigest()
        variant = " ".join([name, *(f"{key}={value}" for key, value in sorted((arguments or {}).items()))])
        self.fingerprint = (dataset_location(self.root, split, variant), len(self.order), digest)

    def _load(self, download: bool, arguments: Mapping[str, Any]) -> Any:
        from torchvision import datasets  # a second of import that other sources need not wait for

        made = getattr(datasets, self.name)
        given = {**arguments, **self._split_argument(inspect.signature(made).parameters)}
        try:
            return made(self.root, **given)
        except NOT_THERE as error:
            said = " ".join(str(error).split())
            if "for argument split" in said:
                raise InputError("split", self.split, f"is none of {self.name} ({said})") from error
            if "keyword argument" in said:
                raise InputError("source_args", dict(arguments), f"are not those of {self.name} ({said})") from error
            if not download:
                remedy = f"holds no whole {self.name} ({said})"
                remedy += "; give the folder that torchvision takes, or --data.download true"
                raise InputError("root", self.root, remedy) from error
        try:
            with _downloaded(self.root) as folder:
                made(folder, download=True, **given)
            return made(self.root, **given)
        except InputError:
            raise
        except NO_NETWORK as error:
            remedy = f"{self.name} cannot be had ({' '.join(str(error).split())})"
            remedy += f"; put its files into {self.root}, where torchvision looks for them"
            raise InputError("download", "true", remedy) from error

    def _split_argument(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What tells torchvision's class this split."""
        if "train" in parameters or self.name in VARIANTS:
            if self.split not in ("train", "test"):
                raise InputError("split", self.split, f"{self.name} has the splits train and test; give one of these")
            return {"train": self.split == "train"}
        if "split" in parameters:
            return {"split": self.split}
        if self.split != "train":
            raise InputError("split", self.split, f"{self.name} has no splits; leave it out, and give --data.holdout")
        return {}

    def __len__(self) -> int:
        return len(self.order)

    def key(self, index: int) -> bytes:
        return numbered_key(self.split, self.order[index])

    def read(self, index: int) -> Image.Image:
        """The image of row ``index``, as torchvision gives it.

        Raises:
            NotAnImageError: where its file is damaged.
            OSError: where the disk does not give it.
        """
        with reading_image():
            return self.images[self.order[index]][0]

    def labels(self, index: int) -> dict[str, str]:
        values = {name: column[self.order[index]] for name, column in self._known.items()}
        return {name: value for name, value in values.items() if value is not None}


def _known(images: Any) -> dict[str, Sequence[str | None]]:
    """The labels of all images of a set, in its order, by name; None where one is not labelled."""
    if hasattr(images, "attr"):  # CelebA; its list of names ends with an empty one
        columns = zip(images.attr_names, images.attr.T.tolist(), strict=False)
        return {name: list(map(str, column)) for name, column in columns}
    numbers = next((getattr(images, key) for key in ("targets", "labels", "_labels") if hasattr(images, key)), None)
    if numbers is None:
        return {}
    names = [str(name).partition(" - ")[0] for name in getattr(images, "classes", [])]  # MNIST's are "7 - seven"

    def named(number: int) -> str | None:
        return None if number < 0 else names[number] if number < len(names) else str(number)

    return {"class": [named(number) for number in np.asarray(numbers).tolist()]}


@contextlib.contextmanager
def _downloaded(root: Path) -> Iterator[Path]:
    """A folder to download into, whose files come into ``root`` once all are there."""
    if not root.parent.is_dir():
        raise InputError("root", root, "its folder does not exist; make it, or give another")
    temporary = root.with_name(f".{root.name}.download")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        shutil.copytree(temporary, root, copy_function=shutil.move, dirs_exist_ok=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def find_set(root: Path) -> str | None:
    """The name of the set that lies in a folder; None where there is none.

    Raises:
        InputError: where there are several.
    """
    found = [name for mark, name in MARKS.items() if (root / mark).exists()]
    if len(found) > 1:
        raise InputError("root", root, f"holds {' and '.join(found)}; name one, by --data.source {found[0]}")
    return found[0] if found else None
