"""The one error type for wrong input: what a user gave, and what to give instead."""

from __future__ import annotations


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


def check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises InputError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InputError(key, value, f"give one of {', '.join(choices)}")


def check_at_least(key: str, value: float, least: float) -> None:
    """Raises InputError unless ``value >= least`` (NaN is refused as well)."""
    if not value >= least:
        raise InputError(key, value, f"must be {least} or more")


def check_image_size(image_size: int) -> None:
    """Raises InputError unless ``image_size`` is 32, 64 or 128, the sizes of the DCGAN generator."""
    if image_size not in (32, 64, 128):
        raise InputError("image_size", image_size, "must be a power of two from 32 to 128: 32, 64 or 128")
