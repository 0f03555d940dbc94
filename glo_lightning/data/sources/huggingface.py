"""Hugging Face datasets: a local folder of parquet or arrow files, or a name on the Hub."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glo_lightning.data.source import NumberedSource, dataset_location, file_stamp, numbered_order
from glo_lightning.errors import InputError, decoding
from glo_lightning.files import cache_folder
from glo_lightning.images import NotAnImageError

log = logging.getLogger(__name__)

SUFFIXES = {".parquet", ".arrow"}
REMEDY = "Give a whole dataset: a folder of parquet or arrow files, or a name on the Hub."
SAVED = ("dataset_dict.json", "state.json")  # what Dataset.save_to_disk writes


class HubSource(NumberedSource):
    """The images of one split of a dataset, sorted by the SHA-256 of their keys; a ``Source``.

    A key is the split and the number in it, such as ``train/7``. Labels are the columns of classes and of booleans
    (``1`` or ``0``), by the columns' names.

    Args:
        root: a folder or a parquet file, or the name of a dataset on the Hub.
        column: the column of images or their bytes; the first column of images if not given.
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
            remedy = f"needs the package {error.name}. Install it by pip install -e '.[hub]'."
            raise InputError("source", "huggingface", remedy) from error
        datasets.disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it reports every retry
        self.split, path = split, Path(root).expanduser()
        self.location = os.fspath(path.absolute()) if path.exists() else os.fspath(root)
        if not path.exists() and not download:
            remedy = "does not exist. If it is a name on the Hub, give --data.download true."
            raise InputError("root", root, remedy)
        table = self._load(datasets, path, name)
        self.order = numbered_order(split, len(table))
        if not self.order:
            raise InputError("root", self.location, f"holds no image of split {split}. Give another split.")
        self.column = self._find_column(table, column)
        with decoding("root", self.location, REMEDY):
            self.table = table.cast_column(self.column, datasets.Image(decode=False)).select_columns([self.column])
            self.columns = _label_columns(table, datasets)
        others = [key for key in table.features if key not in (self.column, *self.columns)]
        if others:
            log.info("passed over columns that are neither classes nor booleans: %s", ", ".join(others))
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        state = [(os.fspath(file), *file_stamp(file)) for file in files if file.suffix in SUFFIXES]
        # without local files those in the cache, whose names hold the Hub's commit
        state = state or sorted(file["filename"] for file in table.cache_files)
        digest = hashlib.sha256(repr(state).encode()).hexdigest()
        self.fingerprint = (dataset_location(self.location, split, name or ""), self.column, digest)

    def _load(self, datasets: Any, path: Path, name: str | None) -> Any:
        cache = os.fspath(cache_folder() / "huggingface")
        with decoding("root", self.location, REMEDY):
            try:
                if any((path / file).is_file() for file in SAVED):
                    loaded = datasets.load_from_disk(os.fspath(path))
                elif path.is_file():
                    loaded = datasets.load_dataset(path.suffix[1:], data_files=self.location, cache_dir=cache)
                else:
                    loaded = datasets.load_dataset(self.location, name=name, cache_dir=cache)
            except PermissionError as error:
                place = str(error.filename)
                if place.startswith(cache) or cache.startswith(place):
                    remedy = f"cannot be written ({error.strerror}). Set XDG_CACHE_HOME to another folder."
                    raise InputError("cache", cache, remedy) from error
                raise
            except datasets.exceptions.DatasetsError as error:
                raise (error.__cause__ or error) from None  # which says what is wrong
        if not isinstance(loaded, dict):
            loaded = {"train": loaded}
        if self.split not in loaded:
            remedy = f"{self.location} has the splits {', '.join(loaded)}. Give one of them."
            raise InputError("split", self.split, remedy)
        return loaded[self.split]

    def _find_column(self, table: Any, column: str | None) -> str:
        """Returns the column of images, or of bytes, as tables that were not written by ``datasets`` have."""
        images = [key for key, feature in table.features.items() if type(feature).__name__ == "Image"]
        encoded = [key for key, feature in table.features.items() if _holds_bytes(feature)]
        if column is None and not images and len(encoded) > 1:
            problem = f"has the columns {', '.join(encoded)} of bytes. "
            flags = f"--data.source huggingface --data.source.column {encoded[0]}"
            raise InputError("root", self.location, f"{problem}Choose one, such as {flags}.")
        chosen = column or next(iter(images + encoded), None)
        if chosen is None or chosen not in images + encoded:
            problem = f"has no column {column} of images" if column else "has no column of images"
            raise InputError("root", self.location, f"{problem}. Its columns are {', '.join(table.features)}.")
        return chosen

    def read(self, index: int) -> bytes:
        """Returns the encoded image of row ``index``; NotAnImageError for a row without an image."""
        with decoding(f"key {self.key(index).decode()} of", self.location, REMEDY):
            image = self.table[self.order[index]][self.column] or {}
        if image.get("bytes") is not None:
            return image["bytes"]
        if not image.get("path"):
            raise NotAnImageError("it is null")
        return Path(image["path"]).read_bytes()


def _holds_bytes(feature: Any) -> bool:
    """Returns whether a column holds bytes, or ``{"bytes": ..., "path": ...}`` as ``datasets`` stores images."""
    value = feature.get("bytes") if isinstance(feature, Mapping) else feature
    return getattr(value, "dtype", None) in ("binary", "large_binary")


def _label_columns(table: Any, datasets: Any) -> dict[str, list[str | None]]:
    """Returns the labels of all images, in the table's order, by name; None where an image has none."""
    columns: dict[str, list[str | None]] = {}
    for key, feature in table.features.items():
        if isinstance(feature, datasets.ClassLabel):
            columns[key] = [None if v is None or v < 0 else feature.int2str(v) for v in table[key][:]]
        elif getattr(feature, "dtype", None) == "bool":
            columns[key] = [None if v is None else str(int(v)) for v in table[key][:]]
    return columns
