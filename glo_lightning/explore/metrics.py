"""What was learned: the quality of reconstructions, how the codes moved, the distance of samples to real images."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image import StructuralSimilarityIndexMeasure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from glo_lightning.class_path import make_instance
from glo_lightning.encoding import Generate, Loss
from glo_lightning.errors import InputError
from glo_lightning.images import psnr, to_unit
from glo_lightning.latents import as_rows, fit_pca


@torch.no_grad()
def quality(generated: Tensor, images: Tensor, loss: Loss) -> dict[str, float]:
    """PSNR in dB over all pixels, mean SSIM, and the mean loss; PSNR and SSIM on the CPU.

    Args:
        generated: (B, C, H, W) in [-1, 1].
        images: the same shape and range.
        loss: maps (generated, images) to a mean over the batch.
    """
    ssim, total = StructuralSimilarityIndexMeasure(data_range=1.0), 0.0
    for some, wanted in zip(generated.split(128), images.split(128), strict=True):
        total += float(loss(some, wanted)) * len(some)
        ssim.update(to_unit(some.cpu()), to_unit(wanted.cpu()))
    found = {"psnr": psnr(generated.cpu(), images.cpu()), "ssim": torch.as_tensor(ssim.compute())}
    return {name: float(value) for name, value in found.items()} | {"loss": total / len(generated)}


@torch.no_grad()
def generate(generator: Generate, codes: Tensor) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] of codes (B, D), 128 at a time; ``generator`` in eval mode."""
    return torch.cat([generator(some) for some in codes.split(128)])


def pca_reconstructions(training: Tensor, images: Tensor, latent_dim: int) -> Tensor:
    """uint8 images (B, C, H, W), in [-1, 1], from their first D principal components of the training images (uint8)."""
    mean, axes = fit_pca(as_rows(training), latent_dim)
    reconstructions = mean + (as_rows(images) - mean) @ axes @ axes.T
    return reconstructions.clamp(-1, 1).view(images.shape)


def neighbours_kept(before: Tensor, after: Tensor, number: int = 10) -> float:
    """The fraction of each code's nearest neighbours (N, D) before that are among its nearest ones after."""
    from sklearn.neighbors import NearestNeighbors

    number = min(number, len(before) - 1)
    near = [NearestNeighbors(n_neighbors=number).fit(codes).kneighbors()[1] for codes in (before, after)]
    return float(np.mean([len(np.intersect1d(*rows)) / number for rows in zip(*near, strict=True)]))


def load_features(name: str) -> nn.Module:
    """The network whose features samples and images are compared by; maps uint8 images (B, 3, H, W) to (B, F).

    Args:
        name: ``inception``, as torchmetrics has it; a TorchScript file; or the path of a class made without arguments.

    Raises:
        InputError: when it cannot be had.
    """
    if name == "inception":
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            return NoTrainInceptionV3("inception-v3-compat", ["2048"])
        except (ImportError, ModuleNotFoundError, OSError) as error:
            remedy = "needs torch-fidelity and its weights, which could not be had here"
            remedy = f"{remedy} ({error}); give a TorchScript file or the path of a class"
            raise InputError("features", name, " ".join(remedy.split())) from error
    if Path(name).is_file():
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*torch.jit.load.*")  # torch 2.15 would have torch.export
                return torch.jit.load(name, map_location="cpu").eval()
        except RuntimeError as error:
            raise InputError("features", name, "is no TorchScript file; make it with torch.jit.save") from error
    remedy = "give inception, a TorchScript file, or the path of a class made without arguments"
    return make_instance(name, nn.Module, "features", remedy).eval()


@torch.no_grad()
def extract(images: Tensor, features: nn.Module) -> Tensor:
    """The features (B, F) of uint8 images (B, C, H, W), float32 on the CPU, 256 at a time; see ``load_features``.

    Images go to the network's device. Grey ones are shown as RGB.
    """
    device = next((parameter.device for parameter in features.parameters()), images.device)
    shown = (some.to(device).expand(-1, 3, -1, -1) for some in images.split(256))
    return torch.cat([features(some).float().cpu() for some in shown])


def frechet(generated: Tensor, real: Tensor) -> float:
    """The Frechet distance between features (B, F) and (R, F), after Heusel et al. (2017), by torchmetrics."""
    return float(_updated(FrechetInceptionDistance, generated, real).compute())


def feature_metrics(generated: Tensor, real: Tensor) -> dict[str, float]:
    """How far features of generated images (B, F) are from those of others (R, F), at least 4 of each.

    Frechet distance; kernel distance after Binkowski et al. (2018), by torchmetrics; precision and recall after
    Kynkaanniemi et al. (2019) with 3 neighbours.
    """
    kernel = _updated(KernelInceptionDistance, generated, real, subset_size=min(1000, len(generated), len(real)))
    scores = {"frechet": frechet(generated, real), "kernel": float(kernel.compute()[0])}
    return scores | {"precision": _covered(generated, by=real), "recall": _covered(real, by=generated)}


def _updated(metric: type, generated: Tensor, real: Tensor, **arguments: int) -> Any:
    known = nn.Identity()
    known.num_features = generated.shape[1]  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*save all extracted features.*")  # some thousands are meant to be
        made = metric(feature=known, **arguments)
    made.set_dtype(torch.float64)
    made.update(real, real=True)
    made.update(generated, real=False)
    return made


def _covered(points: Tensor, by: Tensor, neighbours: int = 3) -> float:
    """The fraction of ``points`` that lie in a ball around one of ``by`` that reaches to its third neighbour."""
    # the first neighbour is itself
    radii = torch.cat([torch.cdist(some, by).kthvalue(neighbours + 1, dim=1).values for some in by.split(1024)])
    covered = [(torch.cdist(some, by) <= radii).any(dim=1) for some in points.split(1024)]
    return float(torch.cat(covered).float().mean())
