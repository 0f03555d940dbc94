"""A trained run, loaded: its model, configuration, images and labels."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.attributes import Attributes
from glo_lightning.data.sampler import rows_without
from glo_lightning.data.store import CachedDataset
from glo_lightning.devices import Accelerator, find_device
from glo_lightning.errors import InputError, decoding
from glo_lightning.explore.exported import CONFIG, RECIPE, find_run, is_export, load_export
from glo_lightning.generator import code_side
from glo_lightning.module import GLO
from glo_lightning.priors.fitting import fit_prior
from glo_lightning.priors.prior import Prior, default_prior
from glo_lightning.runs.checkpoints import read_checkpoint, read_newest
from glo_lightning.runs.folder import RunFolder

log = logging.getLogger(__name__)


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names and values of tensors."""
    content = hashlib.sha256()
    for name, tensor in state.items():
        content.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


class TrainedRun:
    """A trained GLO and the images that it was trained on.

    Attributes:
        model: in eval mode, on the device, its weights without gradients.
        codes: (N, D), of the training images, by row.
        rows: (n,), the rows of images that could be read; the codes of others were never trained.
        trained_codes: (n, D), the codes of these rows.
        default_prior: the name of the prior that suits so many codes, ``flow`` or ``mixture``.
        checkpoint: the file that it was loaded from.
        global_step: of the checkpoint.
        initial: the first codes before training, (n, D), n at most 16,384; None where the checkpoint has none.
        folder: of the run's ``config.yaml``, or of the export; None for a checkpoint without one.
        codes_folder: of saved codes, in the run folder or beside the checkpoint.

    Args:
        path: a run folder, whose last checkpoint is loaded, a checkpoint file, an exported folder, or ``faces``, the
            run that ships.
        accelerator: ``cpu``, ``gpu`` or ``auto``.
        root: where the images are now, if not where the configuration says.

    Raises:
        InputError: when there is no such run or accelerator.
    """

    def __init__(self, path: str | Path, accelerator: Accelerator = "auto", root: str | Path | None = None):
        path = find_run(path)
        self.codes_folder = (path if path.is_dir() else path.parent) / "codes"
        path = path.absolute()
        folders = (path, path.parent, path.parent.parent)
        self.folder = next((folder for folder in folders if (folder / "config.yaml").is_file()), None)
        model = None
        if path.is_file() or path.suffix == ".ckpt":
            self.checkpoint, self._state = path, read_checkpoint(path, "run")
        elif is_export(path):
            model, _, self._state = load_export(path, GLO)
            self.checkpoint, self.folder = path / CONFIG, path
        else:
            RunFolder(path).read_config("run")
            self.checkpoint, self._state = read_newest(RunFolder(path), "run")
        self._root = None if root is None else str(Path(root).expanduser().absolute())
        self.global_step: int = self._state["global_step"]
        self.initial: Tensor | None = self._state.get("initial_codes")
        device = find_device(accelerator)
        if model is None:
            model = GLO.load_from_checkpoint(self.checkpoint, map_location="cpu", weights_only=True)
        self.model: GLO = model.to(device).eval().requires_grad_(False)
        self.codes: Tensor = self.model.latents.weight.detach()
        skipped = self._state.get("LSUNDataModule", {}).get("skipped", torch.empty(0))
        self.rows = torch.from_numpy(rows_without(skipped.tolist(), len(self.codes)))
        all_rows = len(self.rows) == len(self.codes)
        self.trained_codes = self.codes if all_rows else self.codes[self.rows.to(device)]
        num_codes, latent_dim = self.trained_codes.shape
        self.default_prior = default_prior(num_codes, latent_dim, code_side(self.model.generator))

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The run's whole configuration; raises InputError without the run's folder."""
        if self.folder is None:
            remedy = "has no config.yaml beside it, which says where its images are. Give the folder of its run."
            raise InputError("run", self.checkpoint, remedy)
        return RunFolder(self.folder, RECIPE if is_export(self.folder) else "config.yaml").read_config("run")

    @functools.cached_property
    def data(self) -> LSUNDataModule:
        """The run's datamodule; raises InputError without the run's folder, or when its images have changed."""
        arguments = dict(self.config["data"])
        arguments["root"] = self._root or arguments.get("root")
        with decoding("run", self.folder, "The data section of its config.yaml is wrong. Restore it."):
            data = LSUNDataModule(**arguments)
        data.load_state_dict(self._state["LSUNDataModule"])
        return data

    @functools.cached_property
    def data_or_none(self) -> LSUNDataModule | None:
        """The run's datamodule; without its images None, and a line in the log."""
        try:
            return self.data
        except InputError as error:
            log.info("without the training images: %s", error)
            return None

    @functools.cached_property
    def attributes(self) -> Attributes | None:
        """The images' labels by row, as they were when the run was saved; None where there are none."""
        labels = self._state.get("LSUNDataModule", {}).get("labels")
        return None if labels is None else Attributes.from_state(labels)

    @property
    def trained_attributes(self) -> Attributes | None:
        """The labels of ``rows``, in their order; None without labels."""
        return self.attributes and self.attributes.select(self.rows)

    def fit_prior(self, prior: Prior) -> Prior:
        """Fit a prior to the trained codes and their labels, or load it; see ``fitting.fit_prior``."""
        side = code_side(self.model.generator)
        return fit_prior(prior, self.trained_codes, self.trained_attributes, self.folder, side)

    def rows_with(self, labels: Sequence[str]) -> Tensor:
        """Find the training images that have all of these labels, ``name=value``, by row.

        Raises:
            InputError: for images without labels, or a label that does not exist.
        """
        if self.attributes is None:
            remedy = "the run's images have no labels, neither classes nor attributes.csv. Do without."
            raise InputError("condition", " ".join(labels), remedy)
        rows = self.attributes.rows(labels)
        return rows[torch.isin(rows, self.rows)]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the generator's weights, which give codes their meaning."""
        return state_digest(self.model.generator.state_dict())

    def images(self, rows: Iterable[int]) -> Tensor:
        """Read the training images of these rows, uint8 (n, C, H, W); rows without an image are left out."""
        data = self.data
        return data.dataset[[row for row in rows if row < data.num_images]][0]

    def pca_images(self) -> Tensor:
        """The training images that the PCA is fitted to, uint8 (n, C, H, W); not copied where a file holds them."""
        rows, dataset = self.rows[: self.model.n_pca], self.data.dataset
        if isinstance(dataset, CachedDataset) and len(rows) and rows[-1] == len(rows) - 1:
            return dataset.images[: len(rows)]
        return self.images(rows.tolist())
