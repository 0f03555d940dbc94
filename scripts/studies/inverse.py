"""How well are degraded faces restored? python scripts/studies/inverse.py RUN [--num 200] [--prior_weight 1]

Held-out images of RUN are degraded here: half, 90 and 99 % of their pixels taken away, other ones for every 100 images,
and a quarter of their side; or, as ``--only`` says, blurred or without colours. Beside what the generator makes of the
codes found for them, with and without the flow's log-density, stand linear interpolation, biharmonic inpainting, the
median of the nearest known pixels, bicubic enlargement, and least squares among the principal components, as many as a
code has dimensions and four times as many. Biharmonic inpainting is done here with SciPy: the image whose squared
Laplacian has the smallest sum, the known pixels given.

PSNR in dB of the squared error over all pixels of all images; all rows but the plain answers keep what the pictures
say, see ``operators.restored``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.sparse import diags, eye, kron
from scipy.sparse.linalg import splu
from torch import Tensor, nn
from torch.nn import functional as F

from glo_lightning.explore.edits import restoring_codes
from glo_lightning.explore.evaluation import generate
from glo_lightning.explore.operators import OPERATORS, Mask, least_squares, make_operator, restored
from glo_lightning.explore.trained_run import load_run
from glo_lightning.images import from_uint8, psnr

GROUP = 100  # images with the same pixels missing
MISSING = (0.5, 0.9, 0.99)


def linear(pictures: Tensor, known: np.ndarray) -> Tensor:
    """Images (M, C, H, W) between known pixels (H, W); outside of their hull the nearest."""
    places, wanted = np.argwhere(known), np.argwhere(np.ones_like(known))
    values = pictures.flatten(0, 1).flatten(1).T.numpy()[known.ravel()]
    made = LinearNDInterpolator(places, values)(wanted)
    outside = np.isnan(made[:, 0])
    made[outside] = NearestNDInterpolator(places, values)(wanted[outside])
    return torch.from_numpy(made.T.reshape(pictures.shape)).float()


def biharmonic(pictures: Tensor, known: np.ndarray) -> Tensor:
    """Images (M, C, H, W) whose squared Laplacian has the smallest sum, the known pixels (H, W) given."""
    size = len(known)
    ends = np.r_[1.0, 2 * np.ones(size - 2), 1.0]
    line = diags([np.ones(size - 1), -ends, np.ones(size - 1)], [-1, 0, 1])
    laplacian = kron(line, eye(size)) + kron(eye(size), line)
    square = (laplacian.T @ laplacian).tocsr()
    missing = ~known.ravel()
    values = pictures.flatten(0, 1).flatten(1).T.double().numpy().copy()
    told = square[missing][:, ~missing] @ values[~missing]
    values[missing] = splu(square[missing][:, missing].tocsc()).solve(-told)
    return torch.from_numpy(values.T.reshape(pictures.shape)).float()


def median(pictures: Tensor, known: np.ndarray) -> Tensor:
    """Images (M, C, H, W) whose missing pixels are the median of those known in the smallest window that has three."""
    found = torch.where(torch.from_numpy(known), pictures, torch.nan)
    made = found.clone()
    for reach in (1, 2, 4, 8, 16, 32, 64):
        window = 2 * reach + 1
        counted = F.conv2d(torch.from_numpy(known).float()[None, None], torch.ones(1, 1, window, window), padding=reach)
        few = counted[0, 0] < 3
        padded = F.pad(found, (reach,) * 4, value=torch.nan)
        for row, column in torch.nonzero(made[0, 0].isnan() & ~few).tolist():
            some = padded[:, :, row : row + window, column : column + window].flatten(2)
            made[:, :, row, column] = some.nanmedian(2).values
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run with held-out images and, for the prior, 500 codes")
    parser.add_argument("--num", type=int, default=200, help="held-out images, at most")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--starts", nargs="+", default=["pca"])
    parser.add_argument("--prior_weight", type=float, nargs="*", default=[1.0])
    parser.add_argument("--noise_sigma", type=float, default=0.05)
    parser.add_argument("--only", nargs="+", default=["0.5", "0.9", "0.99", "down4"], help="also blur, grey")
    options = parser.parse_args()
    trained = load_run(options.run, "cpu")
    model, data = trained.model, trained.data
    images = from_uint8(data.dataset[data.holdout_rows(len(data.source))[: options.num]][0])
    training = trained.training()
    size, latent_dim = images.shape[-1], model.latents.weight.shape[1]
    rows: dict[str, dict[str, list[Tensor]]] = {}

    def add(column: str, row: str, made: Tensor) -> None:
        rows.setdefault(row, {}).setdefault(column, []).append(made.clamp(-1, 1))

    def restore(column: str, pictures: Tensor, operator: nn.Module) -> None:
        """What PCA and the generator make of pictures."""
        for dimensions in (latent_dim, min(4 * latent_dim, len(training))):
            _, whole = least_squares(training, pictures, operator, dimensions)
            add(column, f"least squares, {dimensions} principal components", restored(whole, pictures, operator))
        for weight in (0.0, *options.prior_weight):
            how = {"prior_weight": weight, "noise_sigma": options.noise_sigma, "encoder": "none"}
            codes = restoring_codes(trained, pictures, operator, options.starts, options.steps, **how)
            made = generate(model, codes)
            prior = f", prior {weight:g}" if weight else ""
            add(column, f"generator{prior}, plain", made)
            add(column, f"generator{prior}, restored", restored(made, pictures, operator))

    fills: dict[str, Callable[[Tensor, np.ndarray], Tensor]] = {
        "linear interpolation": linear,
        "biharmonic": biharmonic,
        "median": median,
    }
    columns = [name for name in (*map(str, MISSING), *OPERATORS) if name in options.only]
    for column in columns:
        for group, some in enumerate(images.split(GROUP)):
            if column in OPERATORS:
                operator = make_operator(column, size, some.shape[1])
                pictures = operator(some)
                made = F.interpolate(pictures, (size, size), mode="bicubic").expand_as(some)
                add(column, "bicubic" if column == "down4" else "the picture", restored(made, pictures, operator))
            else:
                random = torch.Generator().manual_seed(group)
                known = (torch.rand(size, size, generator=random) >= float(column)).numpy()
                operator = Mask(torch.from_numpy(known).float()[None])
                pictures = operator(some)
                for name, fill in fills.items():
                    add(column, name, fill(pictures, known))
            restore(column, pictures, operator)
        for row, parts in rows.items():
            if column in parts:
                print(f"{column}: {row}: {psnr(torch.cat(parts[column]), images):.2f} dB", flush=True)
    print(f"| {len(images)} images | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for row, parts in rows.items():
        cells = [f"{psnr(torch.cat(parts[column]), images):.2f}" if column in parts else "" for column in columns]
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
