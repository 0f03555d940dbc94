"""The last lines of a training: its images beside PCA's, what to do next, and what is poor."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.datamodule import VALIDATED
from glo_lightning.data.sampler import rows_without
from glo_lightning.files import write_text
from glo_lightning.generator import Generator, code_side
from glo_lightning.images import from_uint8, psnr
from glo_lightning.loaders import BATCH
from glo_lightning.module import GLO
from glo_lightning.pca import fit_comparable_pca
from glo_lightning.priors.flow import MIN_CODES
from glo_lightning.runs.folder import RunFolder

MAX_MEASURED = 512  # training images of 64x64 pixels, and fewer larger ones, so that it takes a few seconds
FITTED = 4  # images that a PCA is fitted to, for each measured one
GREY = 6.0  # dB, which grey has of any image
LARGE_GAP = 2.0  # dB between training and held-out images


@torch.no_grad()
def measure(model: GLO, data: LSUNDataModule, metrics: Mapping[str, float]) -> dict[str, float]:
    """Add to the metrics the PSNR in dB of training and held-out images, and of a PCA with as many dimensions.

    At most 512 images of 64x64 pixels are measured, or fewer larger ones: the first. The PCA is fitted to four times as
    many; see ``fit_comparable_pca``. Adds ``train/psnr`` and ``train/psnr_images``, the number of measured images;
    ``val/psnr`` if the last epoch was not validated; and ``train/psnr_pca``, ``val/psnr_pca`` and ``pca_side`` if there
    is such a PCA.
    """
    num = max(1, min(MAX_MEASURED, MAX_MEASURED * 64**2 // data.image_size**2))
    first = rows_without(data.skipped, data.num_images)[: FITTED * num]
    images, rows = data.dataset[first.tolist()]
    training, held_out = from_uint8(images[:num]), data.holdout_rows(VALIDATED)
    parts = {"train": training} | ({"val": from_uint8(data.dataset[held_out][0])} if held_out else {})
    codes = model.eval().latents.weight[rows[:num].to(model.device)]
    generated = torch.cat([model(some) for some in codes.split(BATCH)]).cpu()
    measured = {**metrics, "train/psnr": float(psnr(generated, training)), "train/psnr_images": len(training)}
    if held_out and "val/psnr" not in metrics:
        measured["val/psnr"] = float(model.quick_psnr(parts["val"].to(model.device)))
    pca = fit_comparable_pca(images, codes.shape[1], code_side(model.generator))
    if pca is not None:
        measured["pca_side"] = pca.side
        for name, part in parts.items():
            measured[f"{name}/psnr_pca"] = float(psnr(pca.reconstruct(part), part))
    return measured


def summarize(folder: RunFolder, model: GLO, data: LSUNDataModule) -> list[str]:
    """Complete ``metrics.json`` of a finished run by ``measure``, and describe the run in two or three lines."""
    metrics = measure(model, data, json.loads(folder.metrics.read_text()))
    write_text(folder.metrics, json.dumps(metrics, indent=1))
    script = Path(sys.argv[0])
    browse = ["python", str(script.with_name("browse.py"))] if script.name == "train.py" else ["glo", "browse"]
    lines = [_figures(metrics, model.latents.embedding_dim), f"next: {shlex.join([*browse, str(folder.name)])}"]
    poor = poor_results(metrics, model, folder.name)
    return [*lines, f"poor: {'; '.join(poor)}"] if poor else lines


def _figures(metrics: Mapping[str, float], latent_dim: int) -> str:
    """Give the PSNR of training and held-out images beside PCA's."""
    number, total = metrics["train/psnr_images"], metrics["num_images"]
    text = f"PSNR of {number} training images {metrics['train/psnr']:.1f} dB"
    if number < total:
        text = text.replace("training", f"of {total} training", 1)
    if "train/psnr_pca" in metrics:
        of = "" if metrics["pca_side"] == 1 else " of patches"
        text += f" (PCA{of} with {latent_dim} dimensions {metrics['train/psnr_pca']:.1f})"
    if "val/psnr" in metrics:
        text += f", of held-out images {metrics['val/psnr']:.1f} dB"
        text += f" (PCA {metrics['val/psnr_pca']:.1f})" if "val/psnr_pca" in metrics else ""
    return text


def poor_results(metrics: Mapping[str, float], model: GLO, folder: str | os.PathLike[str]) -> list[str]:
    """Name what is poor, why, and what would help."""
    total, trained, poor = metrics["num_images"], metrics["train/psnr"], []
    # a PCA of few images remembers them: held-out ones tell
    is_below = metrics.get("val/psnr", math.inf) < metrics.get("val/psnr_pca", 0)
    if trained < GREY:
        poor.append("training images are worse than plain grey (lower --model.optimizer.lr, or take another optimizer)")
    elif trained < metrics.get("train/psnr_pca", 0) and (is_below or total >= 4 * model.latents.embedding_dim):
        remedy = f"train longer by --resume {shlex.quote(str(folder))} --max_epochs {2 * metrics['epoch']}"
        remedy += ", or with --model.generator SkipGenerator" if type(model.generator) is Generator else ""
        poor.append(f"training images are below PCA ({remedy})")
    gap = trained - metrics.get("val/psnr", trained)
    if gap > LARGE_GAP:
        remedy = "take more images"
        if code_side(model.generator) == 1:
            remedy += ", or the recipe configs/photographs.yaml if they are not aligned"
        poor.append(f"held-out images are {gap:.1f} dB below training images ({remedy})")
    if total < MIN_CODES:
        remedy = f"a flow needs {MIN_CODES}; --prior mixture and gaussian draw blurred blends"
        poor.append(f"{total} images are too few to sample from ({remedy})")
    return poor
