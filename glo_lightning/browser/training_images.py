"""The training images as the page shows them: pictures, keys, labels, and what is found among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from glo_lightning.browser.payloads import as_url
from glo_lightning.errors import InputError
from glo_lightning.explore.codes import generate
from glo_lightning.explore.neighbours import nearest_by_pixels, nearest_codes
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.images import from_uint8, psnr, to_uint8

NEIGHBOURS = 8


class TrainingImages:
    """The images of a run by row; where they are missing, what the generator makes of their codes.

    Attributes:
        present: whether the images themselves are there.
    """

    def __init__(self, run: TrainedRun):
        self._run, self._data = run, run.data_or_none
        self.present = self._data is not None

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """The images (n, C, H, W), uint8, of rows."""
        return self._run.images(rows) if self.present else to_uint8(self._generated(rows))

    def psnr(self, rows: Sequence[int]) -> Tensor:
        """The PSNR in dB of the reconstructions (n,)."""
        return psnr(self._generated(rows), from_uint8(self._run.images(rows)), per_image=True)

    def tile(self, row: int) -> dict[str, Any]:
        """A row and the URL of its image."""
        return {"row": row, "image": as_url(self.pixels([row])[0])}

    def key(self, row: int) -> str:
        """The key of an image; empty where the images are missing."""
        return "" if self._data is None else self._data.source.key(row).decode(errors="backslashreplace")

    def labels(self, row: int) -> list[str]:
        """The labels ``name=value`` that are known of an image, without those that say that it has none."""
        attributes = self._run.attributes
        known = zip(attributes.values.items(), attributes.table[row].tolist(), strict=True) if attributes else ()
        return [f"{name}={values[number]}" for (name, values), number in known if number >= 0 and values[number]]

    def neighbours(self, row: int) -> list[dict[str, Any]]:
        """The images nearest to an image by code."""
        near = nearest_codes(self._run, self._run.codes[[row]], NEIGHBOURS + 1)[0]
        return [self.tile(other) for other in near[near != row][:NEIGHBOURS].tolist()]

    def nearest(self, codes: Tensor, images: Tensor) -> list[list[dict[str, Any]]]:
        """The image nearest to each of codes (M, D) by code, and to each of its images (M, C, H, W) by pixels."""
        rows_by = {"code": nearest_codes(self._run, codes)[:, 0]}
        if self.present:
            rows_by["pixels"] = nearest_by_pixels(self._run, images)
        return [
            [{"by": by, **self.tile(row)} for by, row in zip(rows_by, rows, strict=True)]
            for rows in zip(*(rows.tolist() for rows in rows_by.values()), strict=True)
        ]

    def find(self, text: str) -> list[int]:
        """Find the rows whose index, key (in part) or label (``name=value``, or a value) is ``text``."""
        attributes = self._run.attributes
        if re.fullmatch(r"[0-9]{1,12}", text) and int(text) < len(self._run.codes):
            return [int(text)]
        for name, values in attributes.values.items() if attributes else ():
            for value in values:
                if text and text in (value, f"{name}={value}"):
                    return self._run.rows_with([f"{name}={value}"]).tolist()
        rows = [row for row in self._run.rows.tolist() if text and text in self.key(row)]
        if not rows:
            raise InputError("search", text, "no image has this index, key or label. Try another.")
        return rows

    def _generated(self, rows: Sequence[int]) -> Tensor:
        return generate(self._run.model, self._run.codes[torch.tensor(rows).to(self._run.codes.device)]).cpu()
