"""Hugging Face datasets: a local folder of parquet or arrow files, or a name on the Hub."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from glo_lightning.data.source import dataset_location, file_stamp, numbered_key, numbered_order
from glo_lightning.errors import InputError, ReadError
from glo_lightning.files import cache_folder

SUFFIXES = {".parquet", ".arrow"}
# what pyarrow raises of damaged tables
DAMAGED = (OSError, ValueError, LookupError, TypeError, RuntimeError, SystemError, MemoryError)
SAVED = ("dataset_dict.json", "state.json")  # what Dataset.save_to_disk writes


def holds_tables(folder: Path) -> bool:
    """Whether there are parquet or arrow files in a folder, or below."""
    return any(path.suffix in SUFFIXES for path in folder.rglob("*"))


class HubSource:
    """The images of one split of a dataset, in the order of the SHA-256 of their keys; a ``Source``.

    A key is the split and the number in it, such as ``train/7``. Labels are the columns of classes and of true or false
    (``1`` or ``0``), by the columns' names.

    Args:
        root: a folder, or the name of a dataset on the Hub.
        split: of the dataset.
        download: whether the Hub may be asked.
        column: of the images; the first one that has some if not given.
        name: of the dataset's configuration, where it has several.

    Raises:
        InputError: without the package ``datasets``, for what is no dataset of images, or has no such split.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        download: bool = False,
        column: str | None = None,
        name: str | None = None,
    ):
        try:
            import datasets
        except ImportError as error:
            remedy = "needs the package datasets; pip install -e '.[hub]'"
            raise InputError("source", "huggingface", remedy) from error
        datasets.disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each of its tries
        self.split, path = split, Path(root).expanduser()
        self.place = os.fspath(path.absolute()) if path.exists() else os.fspath(root)
        if not path.exists() and not download:
            remedy = "does not exist; if it is a name on the Hub, give --data.download true"
            raise InputError("root", root, remedy)
        table = self._load(datasets, path, name)
        kinds = {key: type(feature).__name__ for key, feature in table.features.items()}
        images = [key for key, kind in kinds.items() if kind == "Image"]
        if not images or column not in (None, *images):
            what = f"has no column {column} of images" if column else "has no column of images"
            raise InputError("root", self.place, f"{what}; its columns are {', '.join(kinds)}")
        self.column = column or images[0]
        encoded = table.cast_column(self.column, datasets.Image(decode=False))
        self.table = encoded.select_columns([self.column])
        self.order = numbered_order(split, len(table))
        if not self.order:
            raise InputError("root", self.place, f"holds no image of split {split}; give another")
        try:
            self._known = _known(table, datasets)
        except DAMAGED as error:
            raise InputError("root", self.place, f"its labels cannot be read ({error}); copy it again") from error
        files = sorted(path.rglob("*")) if path.is_dir() else []
        state = [(os.fspath(f), *file_stamp(f)) for f in files if f.suffix in SUFFIXES]
        state = state or sorted(file["filename"] for file in table.cache_files)  # which the Hub's commit is part of
        self.fingerprint = (
            dataset_location(self.place, split, name or ""),
            self.column,
            hashlib.sha256(repr(state).encode()).hexdigest(),
        )

    def _load(self, datasets: Any, path: Path, name: str | None) -> Any:
        try:
            if any((path / file).is_file() for file in SAVED):
                loaded = datasets.load_from_disk(os.fspath(path))
            else:
                kept = os.fspath(cache_folder() / "huggingface")
                loaded = datasets.load_dataset(self.place, name=name, cache_dir=kept)
        except (OSError, ValueError, RuntimeError, LookupError, TypeError, datasets.exceptions.DatasetsError) as error:
            said = " ".join(str(error.__cause__ or error).split())
            remedy = f"is no dataset that can be had ({said}); give a folder of parquet files, or a name on the Hub"
            raise InputError("root", self.place, remedy) from error
        if not isinstance(loaded, dict):
            loaded = {"train": loaded}
        if self.split not in loaded:
            raise InputError("split", self.split, f"{self.place} has the splits {', '.join(loaded)}; give one of these")
        return loaded[self.split]

    def __len__(self) -> int:
        return len(self.order)

    def key(self, index: int) -> bytes:
        return numbered_key(self.split, self.order[index])

    def read(self, index: int) -> bytes:
        """The encoded image of row ``index``.

        Raises:
            ReadError: for a table that cannot be read there, or a file that is gone.
        """
        try:
            image = self.table[self.order[index]][self.column] or {}
            return Path(image["path"] or "").read_bytes() if image["bytes"] is None else image["bytes"]
        except DAMAGED as error:
            remedy = f"cannot be read ({' '.join(str(error).split())}); leave it out by --data.on_invalid_image skip"
            raise ReadError(f"key {self.key(index).decode()} of", self.place, remedy) from error

    def labels(self, index: int) -> dict[str, str]:
        values = {name: column[self.order[index]] for name, column in self._known.items()}
        return {name: value for name, value in values.items() if value is not None}


def _known(table: Any, datasets: Any) -> dict[str, list[str | None]]:
    """The labels of all images, in the table's order, by name; None where one is not labelled."""
    known: dict[str, list[str | None]] = {}
    for key, feature in table.features.items():
        if isinstance(feature, datasets.ClassLabel):
            known[key] = [None if v is None or v < 0 else feature.int2str(v) for v in table[key][:]]
        elif getattr(feature, "dtype", None) == "bool":
            known[key] = [None if v is None else str(int(v)) for v in table[key][:]]
    return known
