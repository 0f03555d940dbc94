"""Finds the source that ``--data.root`` and ``--data.source`` mean."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glo_lightning.data.source import Source
from glo_lightning.data.sources.arrays import SUFFIXES, find_idx, open_arrays, open_idx
from glo_lightning.data.sources.folder import FolderSource, image_paths
from glo_lightning.data.sources.huggingface import HubSource, holds_tables
from glo_lightning.data.sources.lmdb import LMDBSource, find_lmdb, open_categories
from glo_lightning.data.sources.torchvision import SETS, TorchvisionSource, find_set
from glo_lightning.errors import InputError, did_you_mean
from glo_lightning.parts import find_class, make_instance

KINDS = ("lmdb", "folder", "array", "idx", "huggingface")
METHODS = ("__len__", "read", "key")  # methods that a source must have, as its class may be named by a stranger's file


def open_source(
    root: str | os.PathLike[str] | None = None,
    source: str | Source | None = None,
    source_args: Mapping[str, Any] | None = None,
    categories: Sequence[str] | None = None,
    split: str = "train",
    download: bool = False,
) -> Source:
    """Opens the source that a root is, or that is named; see ``LSUNDataModule`` for the arguments.

    Raises:
        InputError: for a root that is not a source, an unknown name, and an argument that the source does not have.
    """
    if source is not None and not isinstance(source, str):
        return _check_object(source, split)
    arguments = dict(source_args or {})
    kind = _find_name(source) if source is not None else "lmdb" if root is None or categories else find_kind(Path(root))
    if categories and kind != "lmdb":
        raise InputError("categories", " ".join(categories), f"are LSUN's, but {root} is {kind}. Leave them out.")
    if kind in SETS:
        return TorchvisionSource(kind, root, split, download, arguments)
    if kind not in KINDS:
        remedy = "give the path of a class made with the root, --data.source_args, and split for another than train"
        arguments |= {} if split == "train" else {"split": split}
        find_class(kind, object, "source", remedy, METHODS)
        return make_instance(kind, object, "source", remedy, root, **arguments)
    if arguments and kind != "huggingface":
        raise InputError("source_args", arguments, f"a source of kind {kind} takes none. Leave them out.")
    if kind == "lmdb":
        if categories:
            return open_categories(root, categories, split)
        return LMDBSource(root if split == "train" else find_lmdb(root, split=split))
    if root is None:
        raise InputError("source", kind, "needs a location. Give it by --data.root.")
    return _open_files(kind, root, split, download, arguments)


def _check_object(source: Source, split: str) -> Source:
    for method in METHODS:
        if not callable(getattr(source, method, None)):
            raise InputError("source", source, f"has no {method}. Give a name, a class path or a Source.")
    if split != "train":
        raise InputError("split", split, "a source given as an object is a single split. Leave it out.")
    return source


def _open_files(
    kind: str, root: str | os.PathLike[str], split: str, download: bool, arguments: Mapping[str, Any]
) -> Source:
    if kind == "huggingface":
        for key in arguments:
            if key not in ("column", "name"):
                raise InputError(
                    "source_args", key, "is not an argument of a Hugging Face dataset. Give column or name."
                )
        return HubSource(root, split, download, **arguments)
    if kind in ("idx", "array"):
        return (open_idx if kind == "idx" else open_arrays)(Path(root).expanduser(), split)
    if split != "train":
        remedy = f"the folder of images {root} has no splits. Leave it out, and give --data.holdout."
        raise InputError("split", split, remedy)
    return FolderSource(root)


def _find_name(source: str) -> str:
    """Returns the name of a kind or a dataset in its own spelling, or a class path."""
    names = {name.lower(): name for name in (*KINDS, *SETS)}
    if "." not in source and source.lower() not in names:
        meant = did_you_mean(source.lower(), names, f"there are {', '.join(names.values())}")
        raise InputError("source", source, f"{meant}; or give the path of a class")
    return names.get(source.lower(), source)


def find_kind(root: Path) -> str:
    """Returns the kind of source that a file or folder is: one of ``KINDS``, or the name of a torchvision dataset.

    Raises:
        InputError: for a root that is not a source, or may not be read.
    """
    root = root.expanduser()
    try:
        if not root.exists():
            remedy = "does not exist. Give an LMDB, an LSUN folder, a folder of images, a .npy, .npz or IDX file."
            raise InputError("root", root, remedy)
        if root.is_file():
            if root.suffix in SUFFIXES:
                return "array"
            if find_idx(root):
                return "idx"
            raise InputError("root", root, "is a file, but not .npy, .npz or IDX. Give one of these, or a folder.")
        if (root / "data.mdb").is_file() or any(root.glob("*_lmdb/data.mdb")):
            return "lmdb"
        if name := find_set(root):
            return name
        if find_idx(root):
            return "idx"
        is_table = not next(image_paths(root), None) and holds_tables(root)
        return "huggingface" if is_table else "folder"
    except PermissionError as error:
        raise InputError("root", root, "may not be read. Ask for permission to read it.") from error
