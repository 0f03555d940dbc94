"""Restoration of degraded pictures: codes of images that the operator maps to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glo_lightning.encoding import STARTS, TRIAL_STEPS, Loss, Penalty, encode, nearest_images, starting_codes
from glo_lightning.errors import InputError
from glo_lightning.explore.codes import check_steps
from glo_lightning.explore.encoder import Encoder
from glo_lightning.explore.flows import fitted_flow
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.generator import code_side
from glo_lightning.images import from_uint8
from glo_lightning.pca import fit_pca


@dataclass
class Restoration:
    """Finds the codes of images that an operator degraded.

    The descent is that of ``encode_images`` through the operator. Of its starts, ``pca`` is least squares among the
    principal components, and ``nearest`` the training image whose degraded picture is nearest. An encoder gets the
    image that least squares restores.

    With Gaussian noise of ``noise_sigma``, the log-probability of a code z given a picture of n values is, up to a
    constant, ``log p(z) - n / (2 sigma^2) * error(z)``. ``prior_weight`` scales the first term, the flow's density by 8
    midpoint steps and 2 random probes; see ``Flow.log_density``.

    Args:
        run: the run.
        operator: see ``make_operator``.
        encoder: see ``encode_images``.
        prior_weight: of the flow's log-density.
        noise_sigma: standard deviation of a picture's distance from the best generated one; black to white is 1.
    """

    run: TrainedRun
    operator: nn.Module
    encoder: Encoder | None = None
    prior_weight: float = 0.0
    noise_sigma: float = 0.05

    def find_codes(
        self,
        pictures: Tensor,
        starts: Sequence[str] = STARTS,
        steps: int = 150,
        loss: Loss | None = None,
    ) -> Tensor:
        """Find codes (M, D) of pictures (M, c, h, h) in [-1, 1], missing pixels 0; see ``encode_images``.

        The loss is of pictures, by default the mean squared error.

        Raises:
            InputError: for a prior without steps or with too few codes, and no steps without an encoder.
        """
        check_steps(steps, self.encoder)
        if self.prior_weight and steps < 1:
            raise InputError("prior_weight", self.prior_weight, "weighs steps of a descent. Give --steps 10 or more.")
        model, device = self.run.model, self.run.codes.device
        self.operator, pictures, loss = self.operator.to(device), pictures.to(device), loss or nn.MSELoss()
        penalty = self._penalty(pictures[0].numel()) if self.prior_weight else None
        codes = model.project(self._starts(pictures, starts, steps))
        if steps < 1:
            return codes[:, 0]
        generator = nn.Sequential(model.generator, self.operator)
        return encode(generator, pictures, codes, loss, model.project, steps, penalty=penalty)

    def _starts(self, pictures: Tensor, names: Sequence[str], steps: int) -> Tensor:
        """Find starting codes (M, S, D)."""
        run, model, training = self.run, self.run.model, self.run.pca_images()
        noise = 2 * self.noise_sigma  # pixels go from -1 to 1
        side = code_side(model.generator)
        by_pca, images = least_squares(training, pictures, self.operator, run.codes.shape[1], model.whiten, noise, side)
        codes = []
        if self.encoder is not None:
            consistent = enforce_consistency(images, pictures, self.operator).clamp(-1, 1)
            codes.append(self.encoder.encode(consistent, model))
        if self.encoder is None or steps > TRIAL_STEPS:
            for name in names:
                if name == "pca":
                    codes.append(by_pca)
                elif name == "nearest":
                    rows = nearest_images(training, pictures, self.operator)
                    codes.append(run.trained_codes[rows.to(run.codes.device)])
                else:
                    codes.append(starting_codes(run.trained_codes, training, images, [name])[:, 0])
        return torch.stack(codes, dim=1)

    def _penalty(self, numbers: int) -> Penalty:
        """The negative log-density of codes, on the scale of a mean squared error over ``numbers`` values."""
        flow = fitted_flow(self.run, "prior_weight", self.prior_weight)
        weight = self.prior_weight * 2 * (2 * self.noise_sigma) ** 2 / numbers
        return lambda codes: -weight * flow.log_density(codes, probes=2, steps=8)


def enforce_consistency(generated: Tensor, pictures: Tensor, operator: nn.Module, steps: int = 10) -> Tensor:
    """Find the images nearest to ``generated`` (B, C, H, W) that the linear operator maps to pictures (B, c, h, h).

    These are found by conjugate gradients (CGLS), in one step for a mask, ``down4`` and ``grey``, in more for a blur.
    """

    def squares(tensor: Tensor) -> Tensor:
        return tensor.square().sum((1, 2, 3), keepdim=True)

    degraded, transpose, *_ = torch.func.vjp(operator, generated)
    images, residual = generated, pictures - degraded
    (slope,) = transpose(residual)
    direction, length = slope, squares(slope)
    tiny, least = torch.finfo(length.dtype).tiny, torch.finfo(length.dtype).eps * length
    for _ in range(steps):
        degraded = operator(direction)
        step = length / squares(degraded).clamp(min=tiny)
        step = step * (length > least)  # an image that agrees stays as it is
        images, residual = images + step * direction, residual - step * degraded
        (slope,) = transpose(residual)
        before, length = length, squares(slope)
        direction = slope + length / before.clamp(min=tiny) * direction
    return images


@torch.no_grad()
def least_squares(
    training: Tensor,
    pictures: Tensor,
    operator: nn.Module,
    latent_dim: int,
    whiten: bool = False,
    noise: float = 0.0,
    side: int = 1,
) -> tuple[Tensor, Tensor]:
    """Restore degraded pictures by PCA: the most probable coordinates, Gaussian with the training images' variances.

    The degraded PCA residual of these images is the noise, so coordinates that a picture says little about stay near
    the mean.

    Args:
        training: images (n, C, H, W), uint8.
        pictures: (M, c, h, h).
        operator: from images to such pictures.
        latent_dim, whiten, side: of the PCA, see ``pca.fit_pca``.
        noise: standard deviation of additional noise.

    Returns:
        Codes (M, D) as the PCA init has them, not projected, and images (M, C, H, W).
    """
    pca = fit_pca(training.to(pictures.device), latent_dim, whiten, side)
    mean = pca.images(pictures.new_zeros(1, latent_dim))
    axes = pca.images(torch.eye(latent_dim, device=pictures.device)) - mean  # (D, C, H, W)
    directions, middle = operator(axes).flatten(1), operator(mean).flatten(1)  # (D, c * h * h), (1, c * h * h)
    sample = from_uint8(training[:2048].to(pictures.device))
    coordinates = pca.codes(sample)
    left = (operator(sample).flatten(1) - middle - coordinates @ directions).square().mean()
    precision = directions @ directions.T / (left + noise**2)
    precision += torch.diag(1 / coordinates.var(0, correction=0).clamp(min=torch.finfo(coordinates.dtype).tiny))
    right = directions @ (pictures.flatten(1) - middle).T / (left + noise**2)
    codes = torch.linalg.solve(precision, right).T
    return codes, pca.images(codes)
