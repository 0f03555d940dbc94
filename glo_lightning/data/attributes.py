"""Labels of images: a table of attributes by row, the file attributes.csv, and ``name=value`` as users give it."""

from __future__ import annotations

import csv
import hashlib
import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glo_lightning.data.source import Source, labels_of
from glo_lightning.errors import InputError, decoding, did_you_mean

log = logging.getLogger(__name__)

MAX_VALUES = 10_000  # of an attribute; the captions of images, say, are no labels
FILE = "attributes.csv"  # beside an LMDB's data.mdb, or in a folder of images


class Attributes:
    """The attributes of N images, each with a few values. The value ``""`` says that an image does not have it.

    Attributes:
        values: the sorted values of each attribute, by name.
        table: (N, A), int64, the number of each image's value; -1 where it is not known.

    Args:
        columns: the N values of each attribute, by name; None where a value is not known.
    """

    def __init__(self, columns: Mapping[str, Sequence[str | None]]):
        self.values = {
            name: sorted({value for value in column if value is not None}) for name, column in columns.items()
        }
        numbers = {name: {value: number for number, value in enumerate(known)} for name, known in self.values.items()}
        rows = [[-1 if value is None else numbers[name][value] for value in column] for name, column in columns.items()]
        self.table = torch.tensor(rows).T.contiguous()

    @property
    def cardinalities(self) -> list[int]:
        """The number of values of each attribute."""
        return [len(values) for values in self.values.values()]

    def parse(self, conditions: Sequence[str]) -> Tensor:
        """Turns conditions ``name=value`` into numbers of values (A,), -1 for attributes without a condition.

        Raises:
            InputError: for a name or a value that does not exist, naming the nearest, and for a name that comes twice.
        """
        numbers, names = torch.full((len(self.values),), -1), list(self.values)
        for text in conditions:
            name, equals, value = text.partition("=")
            if not equals:
                raise InputError("condition", text, f"is not name=value. The names are {', '.join(names)}.")
            if name not in names:
                raise InputError("condition", text, f"there is no attribute {name}; {did_you_mean(name, names)}")
            if value not in self.values[name]:
                meant = did_you_mean(value, self.values[name])
                raise InputError("condition", text, f"{name} has no value {value!r}; {meant}")
            if numbers[names.index(name)] >= 0:
                raise InputError("condition", text, f"{name} is given twice. Give it once.")
            numbers[names.index(name)] = self.values[name].index(value)
        return numbers

    def rows(self, conditions: Sequence[str]) -> Tensor:
        """Returns the rows, in order, of the images that meet all conditions ``name=value``."""
        numbers = self.parse(conditions)
        return ((self.table == numbers) | (numbers < 0)).all(dim=1).nonzero()[:, 0]

    def select(self, rows: Tensor) -> Attributes:
        """Returns the attributes of some rows, in this order."""
        return Attributes.from_state({"values": self.values, "table": self.table[rows]})

    def new_pairs(self, num_rows: int) -> Tensor:
        """Returns for each image, (N,), whether two of its values occur together in none of the first rows."""
        new = torch.zeros(len(self.table), dtype=torch.bool)
        for first, second in itertools.combinations(range(len(self.values)), 2):
            pairs = self.table[:, first] * self.cardinalities[second] + self.table[:, second]
            known = (self.table[:, [first, second]] >= 0).all(dim=1)
            new |= known & ~torch.isin(pairs, pairs[:num_rows][known[:num_rows]])
        return new

    def state(self) -> dict[str, Any]:
        """Returns the values by name and the table as small integers, for a checkpoint."""
        small = max(self.cardinalities) <= torch.iinfo(torch.int8).max
        return {"values": self.values, "table": self.table.to(torch.int8 if small else torch.int32)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Attributes:
        """Restores the attributes from their ``state``."""
        restored = cls.__new__(cls)
        restored.values, restored.table = state["values"], state["table"].long()
        return restored

    def digest(self, num_rows: int | None = None) -> str:
        """Returns the SHA-256 of names and values of the first rows, or of all."""
        values, table = self.values.values(), self.table[:num_rows].tolist()
        rows = [[names[n] if n >= 0 else None for names, n in zip(values, row, strict=True)] for row in table]
        return hashlib.sha256(repr((list(self.values), rows)).encode()).hexdigest()


def find_attributes(source: Source) -> Attributes | None:
    """Collects the labels of all images of a source by row; None where it has no labels. See ``read_labels``."""
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
    columns = {name: [row.get(name) for row in rows] for name in names}
    if captions := [name for name, column in columns.items() if len(set(column)) > MAX_VALUES]:
        log.warning("left out %s: an attribute may have %d values", ", ".join(captions), MAX_VALUES)
        columns = {name: column for name, column in columns.items() if name not in captions}
    return Attributes(columns) if columns else None


def read_labels(folder: Path, keys: Iterable[bytes]) -> dict[bytes, dict[str, str]]:
    """Reads the labels of images by key from the ``attributes.csv`` in a folder; empty without such a file.

    The file has a header line; then a line for each image with its key and a value for each attribute, empty where the
    image has none. Images without a line have no labels.

    Raises:
        InputError: for a file that is malformed, or that names none of these images.
    """
    file, remedy = folder / FILE, "Correct the file, or remove it."
    if not os.path.lexists(file):
        return {}
    if not file.is_file():  # a pipe would be waited for, for ever
        raise InputError("attributes", file, f"is no file. {remedy}")
    by_key: dict[bytes, dict[str, str]] = {}
    with decoding("attributes", file, remedy), open(file, newline="", encoding="utf-8-sig") as opened:
        lines = csv.reader(opened, strict=True, skipinitialspace=True)
        header = next(lines, [])
        names = header[1:]
        if not names or "" in names or len(set(header)) < len(header):
            raise InputError("attributes", file, f"its header is not key,name,name... {remedy}")
        for key, *values in filter(None, lines):  # an empty line is an empty list
            line = f"line {lines.line_num}"
            if len(values) != len(names):
                raise InputError("attributes", file, f"{line} and the header differ in the number of fields. {remedy}")
            if any("\n" in value or "\r" in value for value in values):
                raise InputError("attributes", file, f"{line} ends a value that spans lines. Is a quote missing?")
            if key.encode() in by_key:
                raise InputError("attributes", file, f"{line} repeats the key {key}. {remedy}")
            by_key[key.encode()] = dict(zip(names, values, strict=True))
    images = set(keys)
    if header[0].encode() in images:
        problem = f"its first line names the image {header[0]}. Begin the file with the line key,name,name..."
        raise InputError("attributes", file, problem)
    if images.isdisjoint(by_key):
        problem = "names none of these images; it belongs to others. Write it again, or remove it."
        raise InputError("attributes", file, problem)
    return by_key
