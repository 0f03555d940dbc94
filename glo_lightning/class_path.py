"""Classes that are named by their path, such as ``torch.nn.L1Loss``: a loss, a generator, a prior, features."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glo_lightning.errors import InputError

# What a class of someone else's raises for arguments or images that it does not take.
FOREIGN = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def reason(error: BaseException) -> str:
    """What a class raised, in one line, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())[:100]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {said}"


def find_class(path: str, kind: type | tuple[type, ...], key: str, remedy: str, has: Sequence[str] = ()) -> type:
    """The class at ``path``; nothing is called, for the path may come out of a stranger's checkpoint.

    Args:
        path: ``package.module.Class``.
        kind: what it must be a subclass of, or several of which one.
        key: the argument that named it.
        remedy: what may be given.
        has: methods that it must have.

    Raises:
        InputError: when there is none, or it is of another kind.
    """
    module, _, name = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(key, path, f"{remedy} ({error})" if module else remedy) from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(key, path, remedy)
    for method in has:
        if not callable(getattr(found, method, None)):
            raise InputError(key, path, f"has no {method}; {remedy}")
    return found


def make_instance(
    path: str,
    kind: type,
    key: str,
    remedy: str,
    *given: Any,
    arguments: Mapping[str, Any] | None = None,
    has: Sequence[str] = (),
) -> Any:
    """An instance of the class at ``path``, made with ``given`` and ``arguments``.

    Raises:
        InputError: as ``find_class``, when the class does not take these arguments, and its own.
    """
    found, arguments = find_class(path, kind, key, remedy, has), arguments or {}
    try:
        inspect.signature(found).bind(*given, **arguments)
    except TypeError as error:
        raise InputError(key, path, f"cannot be made with the arguments given ({error}); {remedy}") from error
    try:
        return found(*given, **arguments)
    except InputError:
        raise
    except FOREIGN as error:
        raise InputError(key, path, f"cannot be made with the arguments given ({reason(error)}); {remedy}") from error


def plain(value: Any) -> Any:
    """Numbers, lists and dictionaries of Python's own, which a checkpoint may hold, for NumPy's and torch's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value
