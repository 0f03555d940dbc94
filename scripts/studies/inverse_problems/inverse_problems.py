"""How well are degraded images restored? python scripts/studies/inverse_problems/inverse_problems.py RUN [--num 200]

Degrades held-out images of a run: half, 90 and 99 % of their pixels missing, the same ones for 100 images, or a quarter
of the side; by --only also blurred or without colours. Compares the generator, with and without the flow's log-density
as a prior, with linear interpolation, biharmonic inpainting, bicubic enlargement, and least squares among the principal
components, as many as a code has dimensions and four times as many.

PSNR in dB is over all pixels of all images. All rows but the plain ones keep what is known, see
``restoration.enforce_consistency``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.sparse import diags, eye, kron
from scipy.sparse.linalg import splu
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import StudyParser, markdown

from glo_lightning.explore.codes import generate
from glo_lightning.explore.interactive import load_run
from glo_lightning.explore.operators import OPERATORS, Mask, make_operator
from glo_lightning.explore.restoration import Restoration, enforce_consistency, least_squares
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.images import from_uint8, psnr

GROUP = 100  # images with the same pixels missing
MISSING = ("0.5", "0.9", "0.99")


def linear(pictures: Tensor, known: np.ndarray) -> Tensor:
    """Images (M, C, H, W) interpolated between known pixels (H, W); the nearest one outside their hull."""
    places, wanted = np.argwhere(known), np.argwhere(np.ones_like(known))
    values = pictures.flatten(0, 1).flatten(1).T.numpy()[known.ravel()]
    filled = LinearNDInterpolator(places, values)(wanted)
    outside = np.isnan(filled[:, 0])
    filled[outside] = NearestNDInterpolator(places, values)(wanted[outside])
    return torch.from_numpy(filled.T.reshape(pictures.shape)).float()


def biharmonic(pictures: Tensor, known: np.ndarray) -> Tensor:
    """Images (M, C, H, W) whose squared Laplacian has the smallest sum, the known pixels (H, W) given."""
    size = len(known)
    ends = np.r_[1.0, 2 * np.ones(size - 2), 1.0]
    line = diags([np.ones(size - 1), -ends, np.ones(size - 1)], [-1, 0, 1])
    laplacian = kron(line, eye(size)) + kron(eye(size), line)
    square = (laplacian.T @ laplacian).tocsr()
    missing = ~known.ravel()
    values = pictures.flatten(0, 1).flatten(1).T.double().numpy().copy()
    right = square[missing][:, ~missing] @ values[~missing]
    values[missing] = splu(square[missing][:, missing].tocsc()).solve(-right)
    return torch.from_numpy(values.T.reshape(pictures.shape)).float()


def restore(
    run: TrainedRun, pictures: Tensor, operator: nn.Module, steps: int, prior_weight: float, noise_sigma: float
) -> dict[str, Tensor]:
    """Images by row of the table, from least squares and from the generator."""
    training, latent_dim = run.pca_images(), run.codes.shape[1]
    rows = {}
    for dimensions in (latent_dim, min(4 * latent_dim, len(training))):
        _, images = least_squares(training, pictures, operator, dimensions)
        rows[f"least squares, {dimensions} principal components"] = enforce_consistency(images, pictures, operator)
    for weight in (0.0, prior_weight):
        restoration = Restoration(run, operator, None, weight, noise_sigma)
        images = generate(run.model, restoration.find_codes(pictures, ["pca"], steps))
        name = f"generator, prior of weight {weight:g}" if weight else "generator"
        rows |= {f"{name}, plain": images, f"{name}, restored": enforce_consistency(images, pictures, operator)}
    return rows


def main() -> None:
    parser = StudyParser(__doc__)
    parser.add_argument("run", help="a run folder with held-out images and, for the prior, 500 codes")
    parser.add_argument("--num", type=int, default=200, help="largest number of held-out images")
    parser.add_argument("--steps", type=int, default=150, help="steps of descent")
    parser.add_argument("--prior_weight", type=float, default=1.0, help="weight of the flow's log-density")
    parser.add_argument("--noise_sigma", type=float, default=0.05, help="sigma of the likelihood; white is 1")
    columns = [*MISSING, *OPERATORS]
    parser.add_argument("--only", nargs="+", default=[*MISSING, "down4"], choices=columns, help="columns")
    options = parser.parse_args()
    run = load_run(options.run, "cpu")
    data = run.data
    images = from_uint8(data.dataset[data.holdout_rows(len(data.source))[: options.num]][0])
    size, table = images.shape[-1], dict[str, dict[str, float]]()
    for column in options.only:
        parts: dict[str, list[Tensor]] = {}
        for group, some in enumerate(images.split(GROUP)):
            if column in OPERATORS:
                operator = make_operator(column, size, some.shape[1])
                pictures = operator(some)
                name = "bicubic" if column == "down4" else "the picture"
                enlarged = F.interpolate(pictures, (size, size), mode="bicubic").expand_as(some)
                rows = {name: enforce_consistency(enlarged, pictures, operator)}
            else:
                random = torch.Generator().manual_seed(group)
                known = (torch.rand(size, size, generator=random) >= float(column)).numpy()
                operator = Mask(torch.from_numpy(known).float()[None])
                pictures = operator(some)
                rows = {"linear interpolation": linear(pictures, known)}
                rows["biharmonic inpainting"] = biharmonic(pictures, known)
            rows |= restore(run, pictures, operator, options.steps, options.prior_weight, options.noise_sigma)
            for name, answer in rows.items():
                parts.setdefault(name, []).append(answer)
        for name, answers in parts.items():
            table.setdefault(name, {})[column] = float(psnr(torch.cat(answers).clamp(-1, 1), images))
    print(markdown(f"{len(images)} images", table))


if __name__ == "__main__":
    main()
