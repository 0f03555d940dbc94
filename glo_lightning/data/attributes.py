"""What is known of the images: a table of attributes, read by key, and ``name=value`` as users give it."""

from __future__ import annotations

import csv
import difflib
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glo_lightning.errors import InputError

FILE = "attributes.csv"  # beside an LMDB's data.mdb


class Attributes:
    """The attributes of N images, each one of a few values; the value ``""`` says that an image has none.

    Attributes:
        values: of each attribute by name, sorted.
        table: (N, A), int64: the number of each image's value.

    Args:
        columns: the N values of each attribute, by name.
    """

    def __init__(self, columns: dict[str, Sequence[str]]):
        self.values = {name: sorted(set(column)) for name, column in columns.items()}
        numbers = [np.searchsorted(self.values[name], np.array(column)) for name, column in columns.items()]
        self.table = torch.from_numpy(np.stack(numbers, axis=1)).long()

    @property
    def sizes(self) -> list[int]:
        """How many values each attribute has."""
        return [len(values) for values in self.values.values()]

    def numbers(self, given: Sequence[str]) -> Tensor:
        """``name=value``, of some attributes, as numbers (A,); -1 for an attribute that is not given.

        Raises:
            InputError: for a name or a value that does not exist, naming the nearest, and a name that is given twice.
        """
        numbers = torch.full((len(self.values),), -1)
        for text in given:
            name, equals, value = text.partition("=")
            if not equals:
                raise InputError("given", text, f"is not name=value; the names are {', '.join(self.values)}")
            if name not in self.values:
                raise InputError("given", text, f"there is no attribute {name}; {_nearest(name, list(self.values))}")
            if value not in self.values[name]:
                remedy = f"{name} has no value {value!r}; {_nearest(value, self.values[name])}"
                raise InputError("given", text, remedy)
            position = list(self.values).index(name)
            if numbers[position] >= 0:
                raise InputError("given", text, f"{name} is given twice; give it once")
            numbers[position] = self.values[name].index(value)
        return numbers

    def rows(self, given: Sequence[str]) -> Tensor:
        """The rows, in order, of the images that have all of these."""
        numbers = self.numbers(given)
        return ((self.table == numbers) | (numbers < 0)).all(dim=1).nonzero()[:, 0]

    def new_pairs(self, num_rows: int) -> Tensor:
        """Of each image, (N,): whether two of its values come together in none of the first so many images."""
        new = torch.zeros(len(self.table), dtype=torch.bool)
        for first, second in itertools.combinations(range(len(self.sizes)), 2):
            pairs = self.table[:, first] * self.sizes[second] + self.table[:, second]
            new |= ~torch.isin(pairs, pairs[:num_rows])
        return new

    def digest(self, num_rows: int | None = None) -> str:
        """SHA-256 of names and values of the first rows, or of all."""
        values, table = self.values.values(), self.table[:num_rows].tolist()
        rows = [[names[number] for names, number in zip(values, row, strict=True)] for row in table]
        return hashlib.sha256(repr((list(self.values), rows)).encode()).hexdigest()


def read_attributes(file: Path, keys: Sequence[bytes]) -> Attributes:
    """Reads a CSV file with a heading: the image's key, then a column for each attribute, empty where it has none.

    Args:
        file: the CSV file.
        keys: of the images, in the order of their rows.

    Raises:
        InputError: for a file that is no such table, or names other images.
    """
    try:
        with open(file, newline="", encoding="utf-8") as opened:
            heading, *lines = csv.reader(opened)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError("attributes", file, f"cannot be read ({error}); make it anew, or remove it") from error
    wrong = next((number for number, line in enumerate(lines, 2) if len(line) != len(heading)), None)
    if wrong is not None or len(heading) < 2 or len(set(heading)) < len(heading):
        where = (
            f"line {wrong} has not as many fields as the heading" if wrong else "its heading is not key,name,name..."
        )
        raise InputError("attributes", file, f"{where}; mend it, or remove the file")
    by_key = {line[0].encode(): line[1:] for line in lines}
    missing = next((key for key in keys if key not in by_key), None)
    if missing is not None:
        remedy = f"has no line for key {missing.decode(errors='backslashreplace')}; it belongs to other images"
        raise InputError("attributes", file, f"{remedy}: make it anew, or remove it")
    rows = [by_key[key] for key in keys]
    return Attributes({name: [row[i] for row in rows] for i, name in enumerate(heading[1:])})


def _nearest(word: str, words: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    some = ", ".join(w if w else repr(w) for w in words[:12]) + (", ..." if len(words) > 12 else "")
    return f"did you mean {close[0]}?" if close else f"there are {some}"
