"""The error type for wrong input, checks that raise it, and a parser that reports errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from typing import Any, Literal, NoReturn, get_args

# what --on_nonfinite_loss, --data.on_invalid_image and --checkpoint.on_write_error take
OnError = Literal["raise", "skip"]


class InputError(ValueError):
    """Wrong input from the user. Commands print it as one line, without a traceback.

    Args:
        key: the argument, flag or file at fault, such as ``batch_size``.
        value: the wrong value.
        remedy: two sentences: what is wrong with the value, and what to do.
    """

    def __init__(self, key: str, value: object, remedy: str):
        super().__init__(key, value, remedy)
        self.key, self.value, self.remedy = key, value, remedy

    def __str__(self) -> str:
        return self.line(self.key)

    def line(self, flag: str) -> str:
        """Returns the message with ``flag`` for the key, in one line also where a file's name has line breaks."""
        return "\\n".join(f"{flag} {self.value}: {self.remedy}".splitlines())


class NotAnImageError(ValueError):
    """Bytes that cannot be read as an image; the text says why."""


class ReadError(InputError):
    """A file or record that the disk failed to read. It says nothing about the image in it."""


class DamagedError(InputError):
    """A file that was read but not understood: it is damaged, or of another kind."""


@contextlib.contextmanager
def decoding(key: str, path: object, remedy: str) -> Iterator[None]:
    """Raises DamagedError for whatever the block raises while it decodes the file ``path``.

    Libraries raise any kind of error for damaged files: struct.error, zlib.error, AttributeError, RecursionError.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        why = " ".join(why.split())[:200]
        raise DamagedError(key, path, f"cannot be read ({why}). {remedy}") from error


def check_choice(key: str, value: object, choices: Any) -> None:
    """Raises InputError unless ``value`` is one of ``choices``, a tuple or a ``Literal``."""
    choices = choices if isinstance(choices, tuple) else get_args(choices)
    if value not in choices:
        raise InputError(key, value, f"give one of {', '.join(map(str, choices))}")


def check_at_least(key: str, value: float, least: float) -> None:
    """Raises InputError unless ``value >= least``; NaN and what is not a number raise, too."""
    if not (isinstance(value, Real) and value >= least):
        raise InputError(key, value, f"must be {least} or more")


def check_range(key: str, value: float, least: float, most: float) -> None:
    """Raises InputError unless ``least <= value <= most``; NaN raises, too."""
    if not least <= value <= most:
        raise InputError(key, value, f"must be from {least} to {most}")


def did_you_mean(word: str, words: Iterable[str], otherwise: str | None = None, cutoff: float = 0.6) -> str:
    """Returns the advice for an unknown word: ``did you mean x?``, of the most similar of the known words.

    Of a mapping the keys are compared and the values are shown. ``otherwise`` is the advice if no word has the least
    similarity ``cutoff``, from 0 to 1; by default a list of the first twelve words.
    """
    names = words if isinstance(words, Mapping) else {name: name for name in words}
    close = [name for name in names if name.lower() == word.lower()]
    close = close or difflib.get_close_matches(word, names, n=1, cutoff=cutoff)
    if close:
        return f"did you mean {names[close[0]]}?"
    if otherwise is not None:
        return otherwise
    shown = [name or repr(name) for name in names.values()]
    return f"there are {', '.join(shown[:12])}{', ...' if len(shown) > 12 else ''}"


class OneLineParser(argparse.ArgumentParser):
    """argparse's parser, with a program's docstring as its help. A wrong flag ends in one line and status 2."""

    def __init__(self, description: str | None):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, allow_abbrev=False)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.refuse_unknown(sys.argv[1:] if args is None else args)
        return super().parse_args(args, namespace)

    def refuse_unknown(self, words: Iterable[str]) -> None:
        """Ends with the flag that was probably meant, for a word that looks like a flag and is none."""
        flags = {flag.lstrip("-"): flag for flag in self._option_string_actions}
        for name in (word.partition("=")[0] for word in words if word.startswith("--") and word != "--"):
            if name not in self._option_string_actions:
                meant = did_you_mean(name.lstrip("-"), flags, otherwise="see --help")
                self.exit(2, f"{name}: there is no such argument; {meant}\n")

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{message}; see --help\n")
        raise SystemExit(2)
