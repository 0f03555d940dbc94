"""Priors made of Gaussians: one, one of independent coordinates, and a mixture."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor

from glo_lightning.errors import InputError, check_at_least
from glo_lightning.progress import Progress


class Gaussian:
    """One Gaussian of full covariance, as the GLO paper samples.

    Noise is multiplied by the symmetric root of the covariance. The root is a continuous function of the codes, so the
    samples of one seed move slowly during a training. Samples of no more codes than dimensions are blends of the codes.
    """

    def fit(self, codes: Tensor) -> Gaussian:
        """Compute the mean and the unbiased covariance of codes (N, D)."""
        codes = codes.detach().cpu().double()
        self.mean = codes.mean(0)
        variances, axes = torch.linalg.eigh(codes.T.cov(correction=min(1, len(codes) - 1)))
        self.root = axes * variances.clamp(min=0).sqrt() @ axes.T
        return self

    def sample(self, num: int, seed: int = 0) -> Tensor:
        return (self.mean + _noise(num, len(self.mean), seed).double() @ self.root).float()


class Diagonal:
    """A Gaussian of independent coordinates; it needs few codes."""

    def fit(self, codes: Tensor) -> Diagonal:
        self.mean, self.std = _moments(codes)
        return self

    def sample(self, num: int, seed: int = 0) -> Tensor:
        return self.mean + self.std * _noise(num, len(self.mean), seed)


class Mixture:
    """scikit-learn's mixture of Gaussians, fitted to at most 20,000 codes that are scaled to unit variances.

    The covariances are full where components have at least ``2 * D`` codes on average, else diagonal.

    Args:
        n_components: number of components. By default the one of 1, 2, 4, ... 64 with the lowest BIC.
    """

    def __init__(self, n_components: int | None = None):
        self.n_components = n_components

    def fit(self, codes: Tensor) -> Mixture:
        """Fit by expectation maximization.

        Raises:
            InputError: for fewer than one component, or more components than codes.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        self.mean, self.std = _moments(codes)
        shuffled = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))[:20_000]
        spread = self.std.clamp(min=torch.finfo(self.std.dtype).tiny)  # a constant coordinate becomes 0
        scaled = ((codes.detach().cpu()[shuffled] - self.mean) / spread).double().numpy()
        num_codes, latent_dim = scaled.shape
        candidates = [2**power for power in range(7) if 2**power <= num_codes]
        if self.n_components is not None:
            check_at_least("n_components", self.n_components, 1)
            if self.n_components > num_codes:
                raise InputError("n_components", self.n_components, f"there are {num_codes} codes to fit. Give fewer.")
            candidates = [self.n_components]
        fitted = []
        with Progress(total=sum(candidates), desc="fitting mixtures", unit=" components", leave=False) as bar:
            for components in candidates:
                covariance = "full" if num_codes >= 2 * latent_dim * components else "diag"
                mixture = GaussianMixture(components, covariance_type=covariance, reg_covar=1e-4, random_state=0)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)  # BIC compares it all the same
                    fitted.append(mixture.fit(scaled))
                bar.update(components)
        self.mixture = min(fitted, key=lambda mixture: mixture.bic(scaled))
        return self

    def sample(self, num: int, seed: int = 0) -> Tensor:
        mixture = copy.copy(self.mixture)  # several threads may draw from it, each with its seed
        mixture.random_state = seed
        samples, _ = mixture.sample(num)
        order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))  # they come sorted by component
        return self.mean + self.std * torch.from_numpy(samples).float()[order]


def _noise(num: int, dimensions: int, seed: int) -> Tensor:
    return torch.randn(num, dimensions, generator=torch.Generator().manual_seed(seed))


def _moments(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and standard deviation (D,) of each coordinate, on the CPU."""
    std, mean = torch.std_mean(codes.detach().cpu(), dim=0, correction=min(1, len(codes) - 1))
    return mean, std
