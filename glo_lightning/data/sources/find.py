"""Which source ``--data.root`` and ``--data.source`` mean."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glo_lightning.class_path import make_instance
from glo_lightning.data.source import Source
from glo_lightning.data.sources.arrays import SUFFIXES, find_idx, open_arrays, open_idx
from glo_lightning.data.sources.folder import FolderSource, image_paths
from glo_lightning.data.sources.huggingface import HubSource, holds_tables
from glo_lightning.data.sources.lmdb import LMDBSource, find_lmdb, open_categories
from glo_lightning.data.sources.torchvision import SETS, TorchvisionSource, find_set
from glo_lightning.errors import InputError, did_you_mean
from glo_lightning.files import cache_folder

KINDS = ("lmdb", "folder", "array", "idx", "huggingface")
METHODS = ("__len__", "read", "key")  # of a source; the path of its class may come out of a stranger's file


def open_source(
    root: str | os.PathLike[str] | None = None,
    source: str | Source | None = None,
    source_args: Mapping[str, Any] | None = None,
    categories: Sequence[str] | None = None,
    split: str = "train",
    download: bool = False,
) -> Source:
    """The source that a root is, or that is named; see ``LSUNDataModule`` for the arguments.

    Raises:
        InputError: for a root that is none, a name that is none, an argument that this source does not have.
    """
    if source is not None and not isinstance(source, str):
        for method in METHODS:
            if not callable(getattr(source, method, None)):
                raise InputError("source", source, f"has no {method}; give a name, a class path or a Source")
        if split != "train":
            raise InputError("split", split, "a source that is given as an object is one split; leave it out")
        return source
    name = _named(source) if source is not None else "lmdb" if root is None or categories else find_kind(Path(root))
    if categories and name != "lmdb":
        raise InputError("categories", " ".join(categories), f"are of LSUN, and {root} is {name}; leave them out")
    if source_args and name in ("lmdb", "folder", "array", "idx"):
        raise InputError("source_args", dict(source_args), f"a source of kind {name} takes none; leave them out")
    if name in SETS:
        place = cache_folder() / "sets" if root is None else root
        if root is None and download:
            cache_folder().mkdir(parents=True, exist_ok=True)
        return TorchvisionSource(name, place, split, download, source_args)
    if name not in KINDS:
        remedy = "give the path of a class made with the root, --data.source_args, and split for another than train"
        other = {} if split == "train" else {"split": split}
        arguments = {**(source_args or {}), **other}
        return make_instance(name, object, "source", remedy, root, arguments=arguments, has=METHODS)
    if name == "lmdb":
        if categories:
            return open_categories(root, categories, split)
        return LMDBSource(root if split == "train" else find_lmdb(root, split=split))
    if root is None:
        raise InputError("source", name, "needs a place; give it by --data.root")
    path = Path(root).expanduser()
    if name == "huggingface":
        taken = ("column", "name")
        for key in source_args or {}:
            if key not in taken:
                raise InputError("source_args", key, f"a dataset of Hugging Face takes {' and '.join(taken)}")
        return HubSource(root, split, download, **(source_args or {}))
    if name == "idx":
        return open_idx(path, split)
    if name == "array":
        return open_arrays(path, split)
    if split != "train":
        raise InputError("split", split, f"the folder of images {root} has none; leave it out, and give --data.holdout")
    return FolderSource(root)


def _named(source: str) -> str:
    """The source's name as it is spelt here; a class path as it is."""
    names = {name.lower(): name for name in (*KINDS, *SETS)}
    if "." not in source and source.lower() not in names:
        meant = did_you_mean(source.lower(), names, f"there are {', '.join(names.values())}")
        raise InputError("source", source, f"{meant}; or give the path of a class")
    return names.get(source.lower(), source)


def find_kind(root: Path) -> str:
    """The kind of source that a file or folder is: one of ``KINDS``, or one of torchvision's sets.

    Raises:
        InputError: when it is none.
    """
    root = root.expanduser()
    try:
        if not root.exists():
            remedy = "does not exist; give an LMDB, an LSUN folder, a folder of images, a .npy, .npz or IDX file"
            raise InputError("root", root, remedy)
        if root.is_file():
            if root.suffix in SUFFIXES:
                return "array"
            if find_idx(root):
                return "idx"
            raise InputError("root", root, "is a file, but neither .npy, .npz nor IDX; give one of these, or a folder")
        if (root / "data.mdb").is_file() or any(root.glob("*_lmdb/data.mdb")):
            return "lmdb"
        if name := find_set(root):
            return name
        if find_idx(root):
            return "idx"
        if next(image_paths(root), None):
            return "folder"
        return "huggingface" if holds_tables(root) else "folder"
    except PermissionError as error:
        raise InputError("root", root, "may not be read; ask for the permission to read it") from error
