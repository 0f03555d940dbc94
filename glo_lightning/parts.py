"""Parts by class: a class path and plain arguments, as the command line injects them and a checkpoint keeps them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from glo_lightning.errors import InputError

# What a plugged-in class raises for arguments or images that it does not take.
PLUGIN_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
PLAIN = (str, int, float, bool, type(None))

Part = Callable[..., Any] | Mapping[str, Any]  # a class, a functools.partial of one, or its description


def describe_part(part: Part, key: str) -> dict[str, Any]:
    """Describes the part that an argument ``key`` gave as ``{"class_path": ..., "init_args": {...}}``, plain values.

    Raises:
        InputError: for anything but a class, a ``functools.partial`` of one with keyword arguments, and a description.
    """
    if isinstance(part, Mapping) and "class_path" in part:
        made, arguments = part["class_path"], part.get("init_args") or {}
    else:
        found, positional = (part.func, part.args) if isinstance(part, functools.partial) else (part, ())
        if positional and not isinstance(found, type):  # jsonargparse's, of its own function; the class comes last
            found, positional = positional[-1], ()
        if not isinstance(found, type) or positional or "." in found.__qualname__:
            remedy = "Give a class of a module's top level, or functools.partial of one with keyword arguments"
            raise InputError(key, part, f"cannot be kept in a checkpoint. {remedy}")
        made = f"{found.__module__}.{found.__qualname__}"
        arguments = part.keywords if isinstance(part, functools.partial) else {}
    plain = to_builtin(dict(arguments))
    if not _is_plain(plain):
        raise InputError(key, made, f"has arguments that a checkpoint cannot hold ({plain}). Give plain values")
    return {"class_path": made, "init_args": plain}


def make_part(description: Mapping[str, Any], kind: type, key: str, *given: Any) -> Any:
    """Makes the part that a description names, a subclass of ``kind``; the given arguments come first.

    A description among its arguments is a part of the same kind. Raises InputError, as ``make_instance`` does.
    """
    arguments = {
        name: make_part(value, kind, key) if isinstance(value, Mapping) and "class_path" in value else value
        for name, value in (description.get("init_args") or {}).items()
    }
    remedy = "Give other arguments, or another class"
    return make_instance(description["class_path"], kind, key, remedy, *given, **arguments)


def make_instance(path: str, kind: type, key: str, remedy: str, /, *given: Any, **arguments: Any) -> Any:
    """Makes an instance of the class at ``path`` with these arguments; see ``find_class``.

    Raises:
        InputError: for a class that cannot be found, is of another kind, or does not take these arguments.
    """
    found = find_class(path, kind, key, remedy)
    with trying(key, path, "cannot be made with its arguments", remedy):
        inspect.signature(found).bind(*given, **arguments)
        return found(*given, **arguments)


def find_class(path: str, kind: type | tuple[type, ...], key: str, remedy: str, has: Sequence[str] = ()) -> type:
    """Finds the class at ``path``. Nothing is called: the path may come from a checkpoint of a stranger.

    Args:
        path: ``package.module.Class``.
        kind: the class, or the classes, of which it must be a subclass.
        key: the argument that named it.
        remedy: what to give instead.
        has: methods that it must have.

    Raises:
        InputError: when there is none, or it is of another kind.
    """
    module, _, name = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        reason = f" ({error})" if module else ""
        raise InputError(key, path, f"there is no such class{reason}. {remedy}") from error
    if not isinstance(found, type):
        raise InputError(key, path, f"is no class. {remedy}")
    if not issubclass(found, kind):
        wanted = "of another kind" if isinstance(kind, tuple) else f"no {kind.__name__}"
        raise InputError(key, path, f"is {wanted}. {remedy}")
    for method in has:
        if not callable(getattr(found, method, None)):
            raise InputError(key, path, f"has no {method}. {remedy}")
    return found


@contextlib.contextmanager
def trying(key: str, path: str, fault: str, remedy: str) -> Iterator[None]:
    """Turns what the class at ``path`` raises in the block into an InputError that says what and where in one line."""
    try:
        yield
    except InputError:
        raise
    except PLUGIN_ERRORS as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(str(error).split())[:100]
        place = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
        raise InputError(key, path, f"{fault} ({place}: {said}). {remedy}") from error


def to_builtin(value: Any) -> Any:
    """Turns the numbers and sequences of NumPy and torch into Python's own, which a checkpoint may hold."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_builtin(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_builtin(part) for part in value]
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, list) else isinstance(value, PLAIN)
