"""Priors: distributions that are fitted to the codes after training, to draw new codes from."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from glo_lightning.class_path import make_instance
from glo_lightning.errors import InputError, check_at_least
from glo_lightning.latents import Projection
from glo_lightning.priors.flow import Flow


@runtime_checkable
class Prior(Protocol):
    """What a prior has to offer; a class of one's own needs no base class.

    ``fit`` takes the codes (N, D), float32 on any device. ``sample`` draws (num, D), float32 on the CPU, and the same
    ones for the same seed. Neither touches torch's global generator.
    """

    def fit(self, codes: Tensor) -> Any: ...

    def sample(self, num: int, seed: int) -> Tensor: ...


class Gaussian:
    """One Gaussian of full covariance, as the GLO paper samples.

    Noise is multiplied with the symmetric root of the covariance, which is a continuous function of the codes: the
    samples of one seed move slowly while a model is trained.
    """

    def fit(self, codes: Tensor) -> Gaussian:
        """Takes the mean and the unbiased covariance of the codes.

        Raises:
            InputError: for no more codes than dimensions; their covariance would be singular.
        """
        num_codes, latent_dim = codes.shape
        if num_codes <= latent_dim:
            remedy = f"{num_codes} codes are too few for a full covariance of {latent_dim} dimensions; give diagonal"
            raise InputError("prior", "gaussian", remedy)
        codes = codes.detach().cpu().double()
        self.mean = codes.mean(0)
        variances, axes = torch.linalg.eigh(codes.T.cov())
        self.root = axes * variances.clamp(min=0).sqrt() @ axes.T
        return self

    def sample(self, num: int, seed: int = 0) -> Tensor:
        return (self.mean + _noise(num, len(self.mean), seed).double() @ self.root).float()


class Diagonal:
    """A Gaussian of independent coordinates: the least that can be learned, and it needs few codes."""

    def fit(self, codes: Tensor) -> Diagonal:
        self.mean, self.std = _moments(codes)
        return self

    def sample(self, num: int, seed: int = 0) -> Tensor:
        return self.mean + self.std * _noise(num, len(self.mean), seed)


class Mixture:
    """scikit-learn's mixture of Gaussians, fitted to at most 20,000 of the codes, scaled to unit variances.

    The covariances are full where every component has at least ``2 * D`` codes on average, else diagonal.

    Args:
        n_components: of the mixture; if not given, the one of 1, 2, 4, ... 64 with the lowest BIC.
    """

    def __init__(self, n_components: int | None = None):
        self.n_components = n_components

    def fit(self, codes: Tensor) -> Mixture:
        """Fits by expectation-maximisation.

        Raises:
            InputError: for fewer than one component, or more than codes.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        self.mean, self.std = _moments(codes)
        scaled = _some(_scaled(codes, self.mean, self.std), 20_000).double().numpy()
        num_codes, latent_dim = scaled.shape
        candidates = [2**power for power in range(7) if 2**power <= num_codes]
        if self.n_components is not None:
            check_at_least("n_components", self.n_components, 1)
            if self.n_components > num_codes:
                raise InputError("n_components", self.n_components, f"there are {num_codes} codes to fit; give fewer")
            candidates = [self.n_components]
        fitted = []
        for components in candidates:
            covariance = "full" if num_codes >= 2 * latent_dim * components else "diag"
            mixture = GaussianMixture(components, covariance_type=covariance, reg_covar=1e-4, random_state=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # its likelihood is compared all the same
                fitted.append(mixture.fit(scaled))
        self.mixture = min(fitted, key=lambda mixture: mixture.bic(scaled))
        return self

    def sample(self, num: int, seed: int = 0) -> Tensor:
        self.mixture.random_state = seed
        samples, _ = self.mixture.sample(num)
        order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))  # they come component by component
        return self.mean + self.std * torch.from_numpy(samples).float()[order]


PRIORS: dict[str, Callable[[], Prior]] = {
    "flow": Flow,
    "gaussian": Gaussian,
    "diagonal": Diagonal,
    "mixture": Mixture,
}


def default_prior(num_codes: int, latent_dim: int) -> str:
    """The prior for so many codes: ``flow`` from 1,000 and from 20 for each dimension on, below that ``mixture``."""
    return "flow" if num_codes >= max(1000, 20 * latent_dim) else "mixture"


def make_prior(name: str, n_components: int | None = None) -> Prior:
    """Makes the prior of that name, still to be fitted.

    Args:
        name: ``flow``, ``gaussian``, ``diagonal``, ``mixture``, or the path of a class that is made without arguments
            and has ``fit`` and ``sample`` as ``Prior`` says.
        n_components: of the mixture.

    Raises:
        InputError: for a name that is none of these, or components of what is no mixture.
    """
    if n_components is not None:
        if name != "mixture":
            raise InputError("n_components", n_components, f"the prior {name} has no components; give --prior mixture")
        return Mixture(n_components)
    if name in PRIORS:
        return PRIORS[name]()
    remedy = f"give {', '.join(PRIORS)} or the path of a class with fit(codes) and sample(num, seed)"
    return make_instance(name, Prior, "prior", remedy)


def sample_codes(
    prior: Prior,
    codes: Tensor,
    num: int,
    project: Projection,
    seed: int = 0,
    temperature: float = 1.0,
    given: Tensor | None = None,
    guidance: float | None = None,
) -> Tensor:
    """Draws codes (num, D) from a prior that is fitted, on the device of the codes.

    Args:
        prior: fitted on ``codes``.
        codes: (N, D); ``model.latents.weight``.
        num: how many to draw.
        project: the projection that the codes were trained with, ``model.project``.
        seed: the same seed draws the same codes.
        temperature: what the samples' deviation from the codes' mean is multiplied with, before the projection, or a
            flow's noise; less than 1 gives more typical samples that differ less.
        given: attributes that the samples are to have, of a flow alone; see ``Flow.sample``.
        guidance: of a flow, likewise.

    Raises:
        InputError: for a value out of range.
    """
    check_at_least("num", num, 1)
    if not 0 < temperature < float("inf"):
        raise InputError("temperature", temperature, "must be more than 0; 1 samples the prior as it is")
    mean = codes.detach().mean(0)
    if isinstance(prior, Flow):
        samples, temperature = prior.sample(num, seed, temperature, given, guidance).to(mean), 1.0
    elif given is not None:
        raise InputError("given", type(prior).__name__, "only a flow can be given attributes; give --prior flow")
    else:
        samples = prior.sample(num, seed).to(mean)
    if samples.shape != (num, len(mean)):
        shape, wanted = tuple(samples.shape), (num, len(mean))
        raise InputError("prior", type(prior).__name__, f"its sample gives codes of shape {shape}; must be {wanted}")
    return project(samples if temperature == 1 else mean + temperature * (samples - mean))


def _noise(num: int, dimensions: int, seed: int) -> Tensor:
    return torch.randn(num, dimensions, generator=torch.Generator().manual_seed(seed))


def _moments(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each coordinate, (D,) and (D,), on the CPU."""
    std, mean = torch.std_mean(codes.detach().cpu(), dim=0, correction=min(1, len(codes) - 1))
    return mean, std


def _scaled(codes: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The codes' coordinates with mean 0 and standard deviation 1; a constant one stays 0."""
    return (codes.detach().cpu() - mean) / std.clamp(min=torch.finfo(std.dtype).tiny)


def _some(codes: Tensor, most: int) -> Tensor:
    """At most so many of the codes, the same ones at each call, in no order."""
    return codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))[:most]]
