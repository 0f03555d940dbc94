"""Samples of a finished run, for its folder and its TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_lightning.loggers import Logger

from glo_lightning.data.attributes import Attributes
from glo_lightning.data.sampler import rows_without
from glo_lightning.devices import Accelerator, find_device
from glo_lightning.errors import InputError
from glo_lightning.generator import code_side
from glo_lightning.module import GLO
from glo_lightning.priors.fitting import fit_prior
from glo_lightning.priors.prior import make_prior, sample_codes
from glo_lightning.runs.checkpoints import read_newest
from glo_lightning.runs.folder import RunFolder
from glo_lightning.training.loggers import log_picture, make_picture, write_picture

log = logging.getLogger(__name__)


def add_samples(run: Path, prior: str, accelerator: Accelerator, loggers: Sequence[Logger], replace: bool) -> None:
    """Fits a prior to the codes of a run's last checkpoint and draws samples: ``images/samples_<prior>.png``.

    The loggers show them as ``samples/<prior>``. If the prior cannot be fitted to these codes, a line in the log says
    so.
    """
    name = prior.rpartition(".")[2]
    picture = run / "images" / f"samples_{name}.png"
    if picture.exists() and not replace:
        return
    file, checkpoint = read_newest(RunFolder(run), "run")
    data = checkpoint.get("LSUNDataModule", {})
    model = GLO.load_from_checkpoint(file, map_location="cpu").to(find_device(accelerator)).eval()
    rows = torch.from_numpy(rows_without(data.get("skipped", []), model.latents.num_embeddings))
    table = model.latents.weight.detach()[rows]
    attributes = None if data.get("labels") is None else Attributes.from_state(data["labels"]).select(rows)
    try:
        fitted = fit_prior(make_prior(prior), table, attributes, run, code_side(model.generator))
        codes = sample_codes(fitted, table, 64, model.project)
    except InputError as error:
        log.info("no samples: %s", error)
        return
    with torch.no_grad():
        grid = make_picture(model(codes))
    write_picture(picture, grid)
    for logger in loggers:
        log_picture(logger, f"samples/{name}", grid, max(checkpoint["global_step"] - 1, 0))
        logger.finalize("success")  # as at the fit's end
    log.info("samples of the prior %s: %s", name, picture)
