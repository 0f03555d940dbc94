"""Hugging Face datasets: a local folder of parquet or arrow files, or a name on the Hub."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from glo_lightning.data.source import NumberedSource, dataset_location, file_stamp, numbered_order
from glo_lightning.errors import InputError, ReadError
from glo_lightning.files import cache_folder

SUFFIXES = {".parquet", ".arrow"}
# what pyarrow raises for damaged tables
DAMAGED = (OSError, ValueError, LookupError, TypeError, RuntimeError, SystemError, MemoryError)
SAVED = ("dataset_dict.json", "state.json")  # what Dataset.save_to_disk writes


def find_table(folder: Path) -> Path | None:
    """Finds a parquet or arrow file in a folder or below."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if os.path.splitext(name)[1] in SUFFIXES and not name.startswith("."):
                return Path(parent, name)
    return None


class HubSource(NumberedSource):
    """The images of one split of a dataset, sorted by the SHA-256 of their keys; a ``Source``.

    A key is the split and the number in it, such as ``train/7``. Labels are the columns of classes and of booleans
    (``1`` or ``0``), by the columns' names.

    Args:
        root: a folder, or the name of a dataset on the Hub.
        split: a split of the dataset.
        download: whether the dataset may be downloaded from the Hub.
        column: the column of images; the first one if not given.
        name: the configuration of the dataset, where it has several.

    Raises:
        InputError: without the package ``datasets``, and for a root that is not a dataset of images with this split.
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
            remedy = "needs the package datasets. Install it by pip install -e '.[hub]'."
            raise InputError("source", "huggingface", remedy) from error
        datasets.disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it reports every retry
        self.split, path = split, Path(root).expanduser()
        self.location = os.fspath(path.absolute()) if path.exists() else os.fspath(root)
        if not path.exists() and not download:
            remedy = "does not exist. If it is a name on the Hub, give --data.download true."
            raise InputError("root", root, remedy)
        table = self._load(datasets, path, name)
        self.column = self._find_column(table, column)
        self.table = table.cast_column(self.column, datasets.Image(decode=False)).select_columns([self.column])
        self.order = numbered_order(split, len(table))
        if not self.order:
            raise InputError("root", self.location, f"holds no image of split {split}. Give another split.")
        try:
            self.columns = _label_columns(table, datasets)
        except DAMAGED as error:
            raise InputError("root", self.location, f"its labels cannot be read ({error}). Copy it again.") from error
        files = sorted(path.rglob("*")) if path.is_dir() else []
        state = [(os.fspath(file), *file_stamp(file)) for file in files if file.suffix in SUFFIXES]
        # without local files those in the cache, whose names hold the Hub's commit
        state = state or sorted(file["filename"] for file in table.cache_files)
        digest = hashlib.sha256(repr(state).encode()).hexdigest()
        self.fingerprint = (dataset_location(self.location, split, name or ""), self.column, digest)

    def _load(self, datasets: Any, path: Path, name: str | None) -> Any:
        try:
            if any((path / file).is_file() for file in SAVED):
                loaded = datasets.load_from_disk(os.fspath(path))
            else:
                cache = os.fspath(cache_folder() / "huggingface")
                loaded = datasets.load_dataset(self.location, name=name, cache_dir=cache)
        except (OSError, ValueError, RuntimeError, LookupError, TypeError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            remedy = f"cannot be loaded as a dataset ({reason}). Give a folder of parquet files, or a name on the Hub."
            raise InputError("root", self.location, remedy) from error
        if not isinstance(loaded, dict):
            loaded = {"train": loaded}
        if self.split not in loaded:
            remedy = f"{self.location} has the splits {', '.join(loaded)}. Give one of them."
            raise InputError("split", self.split, remedy)
        return loaded[self.split]

    def _find_column(self, table: Any, column: str | None) -> str:
        kinds = {key: type(feature).__name__ for key, feature in table.features.items()}
        images = [key for key, kind in kinds.items() if kind == "Image"]
        if not images or column not in (None, *images):
            problem = f"has no column {column} of images" if column else "has no column of images"
            raise InputError("root", self.location, f"{problem}. Its columns are {', '.join(kinds)}.")
        return column or images[0]

    def read(self, index: int) -> bytes:
        """Returns the encoded image of row ``index``.

        Raises:
            ReadError: for a table that cannot be read, or a file that is gone.
        """
        try:
            image = self.table[self.order[index]][self.column] or {}
            return Path(image["path"] or "").read_bytes() if image["bytes"] is None else image["bytes"]
        except DAMAGED as error:
            reason = " ".join(str(error).split())
            remedy = f"cannot be read ({reason}). Skip such images by --data.on_invalid_image skip."
            raise ReadError(f"key {self.key(index).decode()} of", self.location, remedy) from error


def _label_columns(table: Any, datasets: Any) -> dict[str, list[str | None]]:
    """Returns the labels of all images, in the table's order, by name; None where an image has none."""
    columns: dict[str, list[str | None]] = {}
    for key, feature in table.features.items():
        if isinstance(feature, datasets.ClassLabel):
            columns[key] = [None if v is None or v < 0 else feature.int2str(v) for v in table[key][:]]
        elif getattr(feature, "dtype", None) == "bool":
            columns[key] = [None if v is None else str(int(v)) for v in table[key][:]]
    return columns
