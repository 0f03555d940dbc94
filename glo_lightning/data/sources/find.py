"""Finds the source that ``--data.root`` and ``--data.source`` mean."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glo_lightning.data.source import Source
from glo_lightning.data.sources.arrays import SUFFIXES as ARRAYS
from glo_lightning.data.sources.arrays import find_idx, open_arrays, open_idx
from glo_lightning.data.sources.folder import SUFFIXES as IMAGES
from glo_lightning.data.sources.folder import FolderSource, find_file
from glo_lightning.data.sources.huggingface import SUFFIXES as TABLES
from glo_lightning.data.sources.huggingface import HubSource
from glo_lightning.data.sources.lmdb import LMDBSource, find_lmdb, is_lmdb, open_categories
from glo_lightning.data.sources.torchvision import SETS, TorchvisionSource, find_set
from glo_lightning.errors import InputError, did_you_mean
from glo_lightning.parts import find_class, make_instance

KINDS = ("lmdb", "folder", "array", "idx", "huggingface")
METHODS = ("__len__", "read", "key")  # methods that a source must have, as its class may be named by a stranger's file


def describe_source(source: str | Mapping[str, Any]) -> dict[str, Any]:
    """Describes a source as ``{"class_path": name, "init_args": {...}}``, as parts of the model are.

    Args:
        source: a name, or such a description, in which arguments may also stand beside ``class_path``, as flags such as
            ``--data.source.column`` put them there.

    Raises:
        InputError: for arguments without a name.
    """
    if isinstance(source, str):
        return {"class_path": source, "init_args": {}}
    arguments = dict(source)
    name, init_args = arguments.pop("class_path", None), arguments.pop("init_args", None) or {}
    if not isinstance(name, str):
        raise InputError("source", dict(source), "are arguments without a source. Give its name by --data.source.")
    return {"class_path": name, "init_args": {**init_args, **arguments}}


def open_source(
    root: str | os.PathLike[str] | None = None,
    source: str | Mapping[str, Any] | Source | None = None,
    categories: Sequence[str] | None = None,
    split: str = "train",
    download: bool = False,
) -> Source:
    """Opens the source that a root is, or that is named; see ``LSUNDataModule`` for the arguments.

    Raises:
        InputError: for a root that is not a source, an unknown name, and an argument that the source does not have.
    """
    arguments: dict[str, Any] = {}
    if source is None:
        kind = "lmdb" if root is None or categories else find_kind(Path(root))
    elif isinstance(source, str | Mapping):
        described = describe_source(source)
        kind, arguments = _find_name(described["class_path"]), described["init_args"]
    else:
        if split != "train":
            raise InputError("split", split, "a source given as an object is a single split. Leave it out.")
        return _check_source(source)
    if categories and kind != "lmdb":
        raise InputError("categories", " ".join(categories), f"are LSUN's, but {root} is {kind}. Leave them out.")
    if kind in SETS:
        return TorchvisionSource(kind, root, split, download, arguments)
    if kind not in KINDS:
        return _make_source(kind, root, arguments | ({} if split == "train" else {"split": split}))
    _check_arguments(kind, arguments, ("column", "name") if kind == "huggingface" else ())
    if kind == "lmdb":
        if categories:
            return open_categories(root, categories, split)
        return LMDBSource(root if split == "train" else find_lmdb(root, split=split))
    if root is None:
        raise InputError("source", kind, "needs a location. Give it by --data.root.")
    if kind == "huggingface":
        return HubSource(root, split, download, **arguments)
    if kind in ("idx", "array"):
        return (open_idx if kind == "idx" else open_arrays)(Path(root).expanduser(), split)
    if split != "train":
        remedy = f"the folder of images {root} has no splits. Leave it out, and give --data.holdout."
        raise InputError("split", split, remedy)
    return FolderSource(root)


def _make_source(path: str, root: str | os.PathLike[str] | None, arguments: Mapping[str, Any]) -> Source:
    """Makes a source of the class at ``path``, which is checked before it is called: a stranger may have named it."""
    remedy = "Give the path of a class that is made with the root, and its arguments by --data.source.ARGUMENT"
    parameters = inspect.signature(find_class(path, object, "source", remedy, METHODS)).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        _check_arguments(path, arguments, list(parameters))
    return _check_source(make_instance(path, object, "source", remedy, *([] if root is None else [root]), **arguments))


def _check_arguments(kind: str, arguments: Mapping[str, Any], names: Sequence[str]) -> None:
    for name, value in arguments.items():
        if name not in names:
            meant = did_you_mean(name, names) if names else "it has none. Leave it out"
            raise InputError(f"source.{name}", value, f"{kind} has no such argument; {meant}")


def _check_source(source: Any) -> Source:
    """Checks what everything else relies on, as a user's class has no base class that would see to it."""
    name = type(source).__name__
    for method in METHODS:
        if not callable(getattr(source, method, None)):
            raise InputError("source", name, f"has no {method}. Give a name, a class path or a Source.")
    if not getattr(source, "fingerprint", None) or not isinstance(source.fingerprint, tuple | list):
        remedy = "has no fingerprint. Give it a tuple: its location, then values that change with its content."
        raise InputError("source", name, remedy)
    if not len(source):
        raise InputError("source", name, f"holds no images: {source.fingerprint[0]}. Give others.")
    if not isinstance(source.key(0), bytes):
        raise InputError("source", name, f"has keys of type {type(source.key(0)).__name__}. Make key(i) return bytes.")
    return source


def _find_name(source: str) -> str:
    """Returns the name of a kind or a dataset in its own spelling, or a class path."""
    names = {name.lower(): name for name in (*KINDS, *SETS)}
    if "." not in source and source.lower() not in names:
        meant = did_you_mean(source.lower(), names, f"there are {', '.join(names.values())}")
        raise InputError("source", source, f"{meant}; or give the path of a class")
    return names.get(source.lower(), source)


def find_kind(root: Path) -> str:
    """Returns the kind of source that a file or folder is: one of ``KINDS``, or the name of a torchvision dataset."""
    root = root.expanduser()
    try:
        if not root.exists():
            remedy = "does not exist. Give an LMDB, an LSUN folder, a folder of images, a .npy, .npz or IDX file."
            raise InputError("root", root, remedy)
        if kind := _kind_of_file(root):
            return kind
        if not root.is_dir():
            raise InputError("root", root, "is no LMDB, .npy, .npz, IDX or .parquet file. Give one, or a folder.")
        if is_lmdb(root) or any(root.glob("*_lmdb/data.mdb")):
            return "lmdb"
        if name := find_set(root):
            return name
        if find_idx(root):
            return "idx"
        image, table = find_file(root, IMAGES), find_file(root, TABLES)
        if image and table:
            remedy = f"holds images, such as {image.name}, and tables, such as {table.name}. "
            remedy += "Choose by --data.source folder or --data.source huggingface."
            raise InputError("root", root, remedy)
        arrays = [] if image or table else [file for file in sorted(root.iterdir()) if _kind_of_file(file)]
        if arrays:
            raise InputError("root", root, f"holds no image files, but {arrays[0].name}. Give that file.")
        return "huggingface" if table else "folder"
    except OSError as error:
        remedy = f"cannot be read ({error.strerror}). Check the path and its permissions."
        raise InputError("root", error.filename or root, remedy) from error


def _kind_of_file(file: Path) -> str | None:
    if not file.is_file():
        return None
    if file.suffix in ARRAYS:
        return "array"
    if file.suffix in TABLES:
        return "huggingface"
    return "idx" if find_idx(file) else "lmdb" if is_lmdb(file) else None
