"""The map of the page: the codes on a plane, and the thumbnails of their images."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import threading
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from glo_lightning.browser.training_images import TrainingImages
from glo_lightning.browser.tsne import find_places
from glo_lightning.browser.work import Work
from glo_lightning.errors import DamagedError, InputError, decoding
from glo_lightning.explore.paths import principal_axes
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import write_whole
from glo_lightning.progress import Progress, StoppedError, watcher

log = logging.getLogger(__name__)

MAX_SHOWN = 5000  # images on the map
MAX_TILE = 48  # pixels of a thumbnail
PER_SHEET = 256  # thumbnails
VERSION = 1  # of the file


class Map:
    """The codes of at most 5,000 training images on a plane.

    Attributes:
        rows: of these images, (n,), in order.
        places: of each row in the unit square, by map: ``pca``, by the first two principal axes, and, once
            ``add_tsne`` has run, ``tsne``.
        tile: pixels of a thumbnail's side.
        work: that of ``start_tsne`` while it runs, else None.
    """

    def __init__(self, run: TrainedRun, images: TrainingImages):
        self._run, self._images = run, images
        random = torch.Generator().manual_seed(0)
        self.rows = run.rows[torch.randperm(len(run.rows), generator=random)[:MAX_SHOWN].sort().values]
        axes = principal_axes(run.trained_codes, min(2, run.codes.shape[1]))
        self.places = {"pca": _fit_in(run.codes[self.rows] @ axes.T)}
        self.tile = min(MAX_TILE, run.model.hparams["image_size"])
        self._sheets: dict[int, bytes] = {}
        self._psnr: list[float] = []
        self.sheet(0)  # not by several requests at once: it decodes all images where they are not yet
        self.work: Work | None = None
        self._starting = threading.Lock()

    def start_tsne(self) -> None:
        """Let a thread call ``add_tsne``, unless one does, or has; ``work.stopped`` ends it."""
        with self._starting:
            if self.work is None and "tsne" not in self.places:
                self.work = Work()
                threading.Thread(target=self._add_tsne_as, args=(self.work,), daemon=True).start()

    def _add_tsne_as(self, work: Work) -> None:
        watcher.set(work)
        try:
            self.add_tsne()
        except StoppedError:
            log.info("t-SNE was stopped")
        finally:
            self.work = None

    def add_tsne(self) -> None:
        """Compute the t-SNE map, which takes a minute, or load it from ``maps/`` of the run folder."""
        codes = self._run.codes[self.rows].cpu().contiguous().numpy()
        digest = hashlib.sha256(codes.tobytes() + bytes([VERSION])).hexdigest()[:16]
        file = None if self._run.folder is None else self._run.folder / "maps" / f"tsne-{digest}.npy"
        places = _load(file, len(codes)) if file else None
        if places is None:
            places = find_places(codes)
            if file is not None:
                try:
                    file.parent.mkdir(exist_ok=True)
                    write_whole(file, lambda opened: np.save(opened, places), shared=True)
                except OSError as error:
                    log.warning("%s cannot be written (%s)", file, error.strerror)
        self.places["tsne"] = _fit_in(torch.from_numpy(places))

    def sheet(self, number: int) -> bytes:
        """256 thumbnails as one JPEG, 16 in a row: of ``rows`` from 256 times ``number`` on."""
        if number not in self._sheets:
            first, tile = PER_SHEET * number, self.tile
            images = self._images.pixels(self.rows[first : first + PER_SHEET].tolist())
            tiles = torch.zeros(PER_SHEET, 3, tile, tile, dtype=torch.uint8)
            tiles[: len(images)] = F.interpolate(images.float(), (tile, tile), mode="area").round().byte()
            side = math.isqrt(PER_SHEET)
            sheet = tiles.view(side, side, 3, tile, tile).permute(0, 3, 1, 4, 2).reshape(side * tile, -1, 3)
            file = io.BytesIO()
            Image.fromarray(sheet.numpy()).save(file, "JPEG", quality=88)
            self._sheets[number] = file.getvalue()
        return self._sheets[number]

    @property
    def num_sheets(self) -> int:
        """The number of sheets that hold all thumbnails."""
        return math.ceil(len(self.rows) / PER_SHEET)

    def labels(self, name: str) -> list[int]:
        """The number of the value that each of ``rows`` has of an attribute; -1 where it is not known."""
        attributes = self._run.attributes
        if attributes is None or name not in attributes.values:
            raise InputError("labels", name, "there is no such attribute. Give one of the page.")
        return attributes.table[self.rows, list(attributes.values).index(name)].tolist()

    def psnr(self) -> list[float]:
        """The PSNR in dB of the reconstruction of each of ``rows``; InputError where the images are missing."""
        if not self._images.present:
            raise InputError("psnr", self._run.checkpoint, "needs the training images. Give --data.root.")
        if not self._psnr:
            batches = Progress(self.rows.split(PER_SHEET), desc="measuring reconstructions", hidden=True)
            measured = torch.cat([self._images.psnr(batch.tolist()) for batch in batches])
            self._psnr = [round(value, 2) for value in measured.clamp(max=99).tolist()]
        return self._psnr


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


def _fit_in(places: Tensor) -> list[list[float]]:
    """Fit places (n, 1 or 2) into the unit square with their proportions, to four digits."""
    places = F.pad(places.detach().cpu().double(), (0, 2 - places.shape[1]))
    low, high = places.min(0).values, places.max(0).values
    return ((places - (low + high) / 2) / (high - low).max().clamp(min=1e-12) + 0.5).mul(1e4).round().div(1e4).tolist()
