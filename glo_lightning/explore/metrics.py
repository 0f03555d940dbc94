"""Metrics: of reconstructions, of codes before and after training, of samples beside real images."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image import StructuralSimilarityIndexMeasure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from glo_lightning.data.attributes import Attributes
from glo_lightning.encoding import Loss
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.generator import code_side
from glo_lightning.images import from_uint8, psnr, to_unit
from glo_lightning.pca import fit_comparable_pca

MAX_FITTED, MAX_COMPARED = 4096, 256  # training images of a PCA that new images are compared with, and of its PSNR


@torch.no_grad()
def quality(generated: Tensor, images: Tensor, loss: Loss) -> dict[str, float]:
    """Measure PSNR in dB over all pixels, mean SSIM and mean loss of generated images (B, C, H, W) in [-1, 1]."""
    ssim, total = StructuralSimilarityIndexMeasure(data_range=1.0), 0.0
    for batch, targets in zip(generated.split(128), images.split(128), strict=True):
        total += float(loss(batch, targets)) * len(batch)
        ssim.update(to_unit(batch.cpu()), to_unit(targets.cpu()))
    measured = {"psnr": psnr(generated.cpu(), images.cpu()), "ssim": torch.as_tensor(ssim.compute())}
    return {name: float(value) for name, value in measured.items()} | {"loss": total / len(generated)}


def pca_psnr(run: TrainedRun, images: Tensor) -> tuple[str, Tensor, Tensor] | None:
    """Reconstruct new images (M, C, H, W), uint8, by a PCA of up to 4,096 training images, with D dimensions.

    Returns:
        The title of the PCA, see ``fit_comparable_pca``, the PSNR in dB of each image, (M,), and of the first 256
        training images; None where there is no such PCA.
    """
    training = run.pca_images()[:MAX_FITTED]
    pca = fit_comparable_pca(training, run.codes.shape[1], code_side(run.model.generator))
    if pca is None:
        return None
    both = from_uint8(torch.cat([images, training[:MAX_COMPARED]]))
    values = psnr(pca.reconstruct(both), both, per_image=True)
    return pca.title, values[: len(images)], values[len(images) :]


def neighbours_kept(before: Tensor, after: Tensor, number: int = 10) -> float:
    """The fraction of the nearest neighbours of codes (N, D) that are still nearest afterwards."""
    from sklearn.neighbors import NearestNeighbors

    number = min(number, len(before) - 1)
    near = [NearestNeighbors(n_neighbors=number).fit(codes).kneighbors()[1] for codes in (before, after)]
    return float(np.mean([len(np.intersect1d(*rows)) / number for rows in zip(*near, strict=True)]))


def probe(
    training: Tensor, held_out: Tensor, attributes: Attributes, rows: Tensor, neighbours: int | None = 0
) -> dict[str, float]:
    """Measure how well labels of held-out images can be predicted from their codes.

    The classifier is scikit-learn's logistic regression, or the vote of nearest neighbours, on codes scaled to unit
    variances. Images without labels are left out.

    Args:
        training: codes or other features (N, F) of the first N images in ``attributes``.
        held_out, rows: (M, F), and their rows (M,) in ``attributes``.
        neighbours: largest number of neighbours that vote; 0 for the regression; None for chance, which is always the
            most frequent value.

    Returns:
        The accuracy for each attribute that has two values in training and a known one among held-out images.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(training.numpy())
    inputs, queries = scaler.transform(training.numpy()), scaler.transform(held_out.numpy())
    accuracies = {}
    for number, name in enumerate(attributes.values):
        values, truth = attributes.table[: len(training), number].numpy(), attributes.table[rows, number].numpy()
        labelled, known = values >= 0, truth >= 0
        if len(set(values[labelled].tolist())) > 1 and known.any():
            if neighbours is None:
                kind = DummyClassifier(strategy="most_frequent")
            elif neighbours:
                kind = KNeighborsClassifier(min(neighbours, int(labelled.sum())))
            else:
                kind = LogisticRegression(max_iter=300)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # 300 iterations are near enough
                predicted = kind.fit(inputs[labelled], values[labelled]).predict(queries[known])
            accuracies[name] = float((predicted == truth[known]).mean())
    return accuracies


def frechet(generated: Tensor, real: Tensor) -> float:
    """The Frechet distance between features (B, F) and (R, F), after Heusel et al. (2017), by torchmetrics."""
    return float(_updated(FrechetInceptionDistance, generated, real).compute())


def feature_metrics(generated: Tensor, real: Tensor) -> dict[str, float]:
    """Compare features of generated images (B, F) with those of real ones (R, F), at least 4 of each.

    By Frechet distance; kernel distance after Binkowski et al. (2018), by torchmetrics; precision and recall after
    Kynkaanniemi et al. (2019) with 3 neighbours.
    """
    kernel = _updated(KernelInceptionDistance, generated, real, subset_size=min(1000, len(generated), len(real)))
    scores = {"frechet": frechet(generated, real), "kernel": float(kernel.compute()[0])}
    return scores | precision_and_recall(generated, real)


def precision_and_recall(generated: Tensor, real: Tensor) -> dict[str, float]:
    """Precision and recall of features of generated images (B, F) and real ones (R, F), at least 4 of each."""
    return {"precision": _covered(generated, by=real), "recall": _covered(real, by=generated)}


def _updated(metric: type, generated: Tensor, real: Tensor, **arguments: int) -> Any:
    identity = nn.Identity()
    identity.num_features = generated.shape[1]  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*save all extracted features.*")  # they are meant to be
        filled = metric(feature=identity, **arguments)
    filled.set_dtype(torch.float64)
    filled.update(real, real=True)
    filled.update(generated, real=False)
    return filled


def _covered(points: Tensor, by: Tensor, neighbours: int = 3) -> float:
    """The fraction of ``points`` in a ball around one of ``by`` that reaches to its third neighbour."""
    # the first neighbour is the point itself
    radii = torch.cat([torch.cdist(batch, by).kthvalue(neighbours + 1, dim=1).values for batch in by.split(1024)])
    covered = [(torch.cdist(batch, by) <= radii).any(dim=1) for batch in points.split(1024)]
    return float(torch.cat(covered).float().mean())
