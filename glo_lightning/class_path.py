"""Classes that are named by their path, such as ``torch.nn.L1Loss``: a loss, a generator, a prior, features."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from glo_lightning.errors import InputError


def find_class(path: str, kind: type, key: str, remedy: str) -> type:
    """The class at ``path``; nothing is called, for the path may come out of a stranger's checkpoint.

    Args:
        path: ``package.module.Class``.
        kind: what it must be a subclass of.
        key: the argument that named it.
        remedy: what may be given.

    Raises:
        InputError: when there is none, or it is of another kind.
    """
    module, _, name = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(key, path, remedy) from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(key, path, remedy)
    return found


def make_instance(
    path: str, kind: type, key: str, remedy: str, *given: Any, arguments: Mapping[str, Any] | None = None
) -> Any:
    """An instance of the class at ``path``, made with ``given`` and ``arguments``.

    Raises:
        InputError: as ``find_class``, and when the class does not take these arguments.
    """
    found, arguments = find_class(path, kind, key, remedy), arguments or {}
    try:
        inspect.signature(found).bind(*given, **arguments)
    except TypeError as error:
        raise InputError(key, path, f"cannot be made with the arguments given ({error}); {remedy}") from error
    return found(*given, **arguments)


def plain(value: Any) -> Any:
    """Numbers, lists and dictionaries of Python's own, which a checkpoint may hold, for NumPy's and torch's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value
