"""The one error type for wrong input: what a user gave, and what to give instead; and a parser of one line."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Literal, NoReturn, get_args

OnError = Literal["raise", "skip"]  # the one scheme of --on_bad_loss, --data.on_bad_record, --checkpoint.on_bad_write


class InputError(ValueError):
    """Wrong input from the user; the command line prints it as one line, without a traceback.

    Args:
        key: the argument, flag or file at fault, such as ``batch_size``.
        value: what was given.
        remedy: what is wrong with it and what to give instead.
    """

    def __init__(self, key: str, value: object, remedy: str):
        super().__init__(key, value, remedy)
        self.key, self.value, self.remedy = key, value, remedy

    def __str__(self) -> str:
        return f"{self.key} {self.value}: {self.remedy}"


class ReadError(InputError):
    """A file or record that the disk did not give now; it says nothing about the image in it."""


def check_choice(key: str, value: object, choices: Any) -> None:
    """Raises InputError unless ``value`` is one of ``choices``, a tuple or a ``Literal``."""
    choices = choices if isinstance(choices, tuple) else get_args(choices)
    if value not in choices:
        raise InputError(key, value, f"give one of {', '.join(choices)}")


def check_at_least(key: str, value: float, least: float) -> None:
    """Raises InputError unless ``value >= least`` (NaN is refused as well)."""
    if not value >= least:
        raise InputError(key, value, f"must be {least} or more")


class OneLineParser(argparse.ArgumentParser):
    """argparse's, with a program's docstring as its help: a wrong flag ends it with one line and status 2."""

    def __init__(self, description: str | None):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=formatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{message}; see --help\n")
        raise SystemExit(2)
