"""The map of the page: the codes on a plane, and the thumbnails of their images."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from glo_lightning.errors import DamagedError, decoding
from glo_lightning.explore.paths import principal_axes
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import write_whole

log = logging.getLogger(__name__)

MAX_SHOWN = 5000  # images on the map
MAX_TILE = 48  # pixels of a thumbnail
VERSION = 1  # of the file


class Map:
    """The codes of at most 5,000 training images on a plane.

    Attributes:
        rows: of these images, (n,), in order.
        places: of each row in the unit square, by map: ``pca``, by the first two principal axes, and, once
            ``add_tsne`` has run, ``tsne``.
        tile: pixels of a thumbnail's side.
        thumbnails: all thumbnails in one JPEG, in a square, row by row; None without images.
    """

    def __init__(self, run: TrainedRun):
        self._run = run
        random = torch.Generator().manual_seed(0)
        self.rows = run.rows[torch.randperm(len(run.rows), generator=random)[:MAX_SHOWN].sort().values]
        axes = principal_axes(run.trained_codes, min(2, run.codes.shape[1]))
        self.places = {"pca": _fit_in(run.codes[self.rows] @ axes.T)}
        self.tile = min(MAX_TILE, run.model.hparams["image_size"])
        self.thumbnails = self._thumbnails()

    def add_tsne(self) -> None:
        """Compute the t-SNE map, which takes a minute, or load it from ``maps/`` of the run folder."""
        codes = self._run.codes[self.rows].cpu().contiguous().numpy()
        digest = hashlib.sha256(codes.tobytes() + bytes([VERSION])).hexdigest()[:16]
        file = None if self._run.folder is None else self._run.folder / "maps" / f"tsne-{digest}.npy"
        places = _load(file, len(codes)) if file else None
        if places is None:
            places = _tsne(codes)
            if file is not None:
                try:
                    file.parent.mkdir(exist_ok=True)
                    write_whole(file, lambda opened: np.save(opened, places), shared=True)
                except OSError as error:
                    log.warning("%s cannot be written (%s)", file, error.strerror)
        self.places["tsne"] = _fit_in(torch.from_numpy(places))

    def _thumbnails(self) -> bytes | None:
        if self._run.data_or_none is None:
            return None
        tile, columns = self.tile, math.ceil(math.sqrt(len(self.rows)))
        tiles = torch.zeros(columns * columns, 3, tile, tile, dtype=torch.uint8)
        for first in range(0, len(self.rows), 256):
            images = self._run.images(self.rows[first : first + 256].tolist())
            tiles[first : first + len(images)] = F.interpolate(images.float(), (tile, tile), mode="area").round().byte()
        sheet = tiles.view(columns, columns, 3, tile, tile).permute(0, 3, 1, 4, 2).reshape(columns * tile, -1, 3)
        file = io.BytesIO()
        Image.fromarray(sheet.numpy()).save(file, "JPEG", quality=88)
        return file.getvalue()


def _load(file: Path, num: int) -> np.ndarray | None:
    """The places (num, 2) in a file; None where it holds none."""
    if not file.is_file():
        return None
    try:
        with decoding("map", file, "The map is computed again."):
            places = np.load(file, allow_pickle=False)
            if places.shape != (num, 2) or places.dtype.kind != "f" or not np.isfinite(places).all():
                raise ValueError("it holds no map of these codes")
            return places
    except DamagedError as error:
        log.warning("%s %s", error.value, error.remedy)
        return None


def _tsne(codes: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(codes) < 5:
        return codes[:, :2] if codes.shape[1] > 1 else np.repeat(codes, 2, axis=1)
    with threadpool_limits(1), warnings.catch_warnings():  # the other cores decode
        warnings.simplefilter("ignore", RuntimeWarning)
        return TSNE(perplexity=min(30, (len(codes) - 1) / 3), init="pca", random_state=0).fit_transform(codes)


def _fit_in(places: Tensor) -> list[list[float]]:
    """Fit places (n, 1 or 2) into the unit square with their proportions, to four digits."""
    places = F.pad(places.detach().cpu().double(), (0, 2 - places.shape[1]))
    low, high = places.min(0).values, places.max(0).values
    return ((places - (low + high) / 2) / (high - low).max().clamp(min=1e-12) + 0.5).mul(1e4).round().div(1e4).tolist()
