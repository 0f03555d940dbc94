"""Digests of keys and records, by which a checkpoint recognises the images that its rows belong to."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from glo_lightning.data.source import Source, key_text
from glo_lightning.errors import InputError
from glo_lightning.images import NotAnImageError, reading_image

NUM_SAMPLED_RECORDS = 1024  # enough to tell datasets apart; reading all of LSUN would take minutes


class Digests:
    """The digests of the first ``num_rows`` rows of a source, each computed at its first use."""

    def __init__(self, source: Source, num_rows: int):
        self.source, self.num_rows = source, num_rows
        rows = np.linspace(0, num_rows - 1, min(num_rows, NUM_SAMPLED_RECORDS))
        self.sampled_rows: list[int] = rows.astype(int).tolist()

    @functools.cached_property
    def keys(self) -> str:
        """See ``keys_digest``."""
        return keys_digest(self.source, self.num_rows)

    @functools.cached_property
    def records(self) -> list[int]:
        """63 bits of the SHA-256 of the record of each sampled row; 0 for a record that cannot be read."""
        return [_record_digest(self.source, row) for row in self.sampled_rows]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the source's fingerprint."""
        return hashlib.sha256(repr(self.source.fingerprint).encode()).hexdigest()

    def state(self) -> dict[str, Any]:
        """Returns the digests for a checkpoint."""
        records = torch.tensor(self.records)
        return {"keys_digest": self.keys, "record_digests": records, "fingerprint": self.fingerprint}

    def check(self, state: Mapping[str, Any]) -> None:
        """Compares these rows with the ``state`` in a checkpoint.

        Contents are compared unless the fingerprint says that the source is the same and unchanged.

        Raises:
            InputError: when the keys or the contents of the images differ.
        """
        location = self.source.fingerprint[0]
        if state["keys_digest"] != self.keys:
            remedy = "the checkpoint's rows belong to other images. Give the images that it was trained on."
            raise InputError("root", location, remedy)
        if state["fingerprint"] == self.fingerprint:
            return
        compared = zip(self.sampled_rows, state["record_digests"].tolist(), self.records, strict=True)
        changed = [row for row, was, now in compared if was and now and was != now]
        if changed:
            problem = f"{len(changed)} of {len(self.records)} compared images differ from the checkpoint's, such as "
            problem += f"{key_text(self.source, changed[0])}. Give the images of the run, or begin a new one."
            raise InputError("root", location, problem)


def key_table(source: Source, num_rows: int | None = None) -> np.ndarray:
    """Returns the keys of the first rows, or of all, as ``pack_keys`` does."""
    mapped = getattr(source, "packed_keys", None)  # an LMDB's keys are mapped from a file
    if mapped is not None:
        return mapped[:num_rows]
    return pack_keys([source.key(row) for row in range(len(source))[:num_rows]])


def pack_keys(keys: Sequence[bytes]) -> np.ndarray:
    """Packs keys into an array (N,) of records of ``length`` and zero-padded ``key`` bytes."""
    dtype = np.dtype([("length", "<u2"), ("key", f"V{max(map(len, keys))}")])
    return np.array([(len(key), key) for key in keys], dtype)


def keys_digest(source: Source, num_rows: int | None = None) -> str:
    """Returns the SHA-256 of the keys of the first rows, or of all. It ties a latent table to its images."""
    table = key_table(source, num_rows)
    width = int(table["length"].max())  # of these rows only, so that the digest does not depend on later rows
    return hashlib.sha256(table["length"].tobytes() + table["key"].astype(f"V{width}").tobytes()).hexdigest()


def _record_digest(source: Source, row: int) -> int:
    try:
        with reading_image():
            record = source.read(row)
            content = record if isinstance(record, bytes) else np.asarray(record).tobytes()
    except (InputError, NotAnImageError, OSError):
        return 0
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little") >> 1 or 1
