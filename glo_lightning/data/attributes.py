"""What is known of the images: a table of attributes, read by key, and ``name=value`` as users give it."""

from __future__ import annotations

import csv
import hashlib
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glo_lightning.data.source import Source, labels_of
from glo_lightning.errors import InputError, did_you_mean

log = logging.getLogger(__name__)

FILE = "attributes.csv"  # beside an LMDB's data.mdb, or in a folder of images


class Attributes:
    """The attributes of N images, each one of a few values; the value ``""`` says that an image has none.

    Attributes:
        values: of each attribute by name, sorted.
        table: (N, A), int64: the number of each image's value; -1 where that is not known.

    Args:
        columns: the N values of each attribute, by name; None where a value is not known.
    """

    def __init__(self, columns: Mapping[str, Sequence[str | None]]):
        self.values = {
            name: sorted({value for value in column if value is not None}) for name, column in columns.items()
        }
        numbered = []
        for name, column in columns.items():
            numbers = {value: number for number, value in enumerate(self.values[name])}
            numbered.append([-1 if value is None else numbers[value] for value in column])
        self.table = torch.tensor(numbered).T.contiguous()

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
                raise InputError("condition", text, f"is not name=value; the names are {', '.join(self.values)}")
            if name not in self.values:
                raise InputError(
                    "condition", text, f"there is no attribute {name}; {did_you_mean(name, list(self.values))}"
                )
            if value not in self.values[name]:
                remedy = f"{name} has no value {value!r}; {did_you_mean(value, self.values[name])}"
                raise InputError("condition", text, remedy)
            position = list(self.values).index(name)
            if numbers[position] >= 0:
                raise InputError("condition", text, f"{name} is given twice; give it once")
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
            known = (self.table[:, [first, second]] >= 0).all(dim=1)
            new |= known & ~torch.isin(pairs, pairs[:num_rows][known[:num_rows]])
        return new

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the values by name, and one small array of integers."""
        small = max(self.sizes) <= torch.iinfo(torch.int8).max
        return {"values": self.values, "table": self.table.to(torch.int8 if small else torch.int32)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Attributes:
        """The attributes whose ``state`` this is."""
        restored = cls.__new__(cls)
        restored.values, restored.table = state["values"], state["table"].long()
        return restored

    def digest(self, num_rows: int | None = None) -> str:
        """SHA-256 of names and values of the first rows, or of all."""
        values, table = self.values.values(), self.table[:num_rows].tolist()
        rows = [[names[n] if n >= 0 else None for names, n in zip(values, row, strict=True)] for row in table]
        return hashlib.sha256(repr((list(self.values), rows)).encode()).hexdigest()


def find_attributes(source: Source) -> Attributes | None:
    """The labels of all images of a source by row; None where it has none.

    Raises:
        InputError: when its ``attributes.csv`` is no such table, or belongs to other images.
    """
    labels = labels_of(source)
    if labels is None:
        return None
    rows = [labels(row) for row in range(len(source))]
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    if not names:
        return None
    unlabelled = sum(not row for row in rows)
    if unlabelled:
        log.info("%d of %d images have no labels", unlabelled, len(rows))
    return Attributes({name: [row.get(name) for row in rows] for name in names})


def read_labels(folder: Path, keys: Iterable[bytes]) -> dict[bytes, dict[str, str]]:
    """What ``attributes.csv`` in this folder says of each image, by key; nothing without such a file.

    It has a heading; the image's key, then a column for each attribute, empty where an image has none. Images without a
    line are not labelled.

    Args:
        folder: of the images.
        keys: of the images.

    Raises:
        InputError: for a file that is no such table, or names none of these images.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
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
    by_key = {line[0].encode(): dict(zip(heading[1:], line[1:], strict=True)) for line in lines}
    if not any(key in by_key for key in keys):
        raise InputError("attributes", file, "names none of these images, but others: make it anew, or remove it")
    return by_key
