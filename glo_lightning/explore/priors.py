"""Priors: distributions that are fitted to the codes after training, to draw new codes from."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from glo_lightning.class_path import make_instance
from glo_lightning.errors import InputError, check_at_least
from glo_lightning.explore.flow import Flow
from glo_lightning.latents import Projection


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


class KDE:
    """scikit-learn's kernel density, a Gaussian kernel around every code, on codes scaled to unit variances.

    Its bandwidth is the one of 0.1 to 1 standard deviations that gives held-out codes the highest likelihood, in
    five-fold cross-validation on at most 2,000 codes.
    """

    def fit(self, codes: Tensor) -> KDE:
        """Chooses the bandwidth and keeps the codes.

        Raises:
            InputError: for fewer than five codes.
        """
        from sklearn.model_selection import GridSearchCV
        from sklearn.neighbors import KernelDensity

        if len(codes) < 5:
            raise InputError("prior", "kde", f"{len(codes)} codes are too few for its cross-validation; give diagonal")
        self.mean, self.std = _moments(codes)
        scaled = _scaled(codes, self.mean, self.std).double()
        search = GridSearchCV(KernelDensity(), {"bandwidth": torch.logspace(-1, 0, 11).tolist()})
        self.bandwidth = search.fit(_some(scaled, 2_000).numpy()).best_params_["bandwidth"]
        self.density = KernelDensity(bandwidth=self.bandwidth).fit(scaled.numpy())
        return self

    def sample(self, num: int, seed: int = 0) -> Tensor:
        samples = torch.from_numpy(self.density.sample(num, random_state=seed)).float()
        return self.mean + self.std * samples


class IMLE:
    """A small network from noise to codes, by implicit maximum likelihood estimation.

    In each round noise is mapped to 4,096 samples, each of 512 codes looks for the nearest of them, and the network is
    trained to move that sample to the code: every code has a sample near it, so that no mode is dropped. After Li and
    Malik, *Implicit Maximum Likelihood Estimation* (arXiv 1809.09087); on GLO's codes it is GLANN (Hoshen, Li and
    Malik, CVPR 2019). The samples spread less than the codes; a temperature above 1 makes up for it.

    Args:
        noise_dim: dimensions of the noise.
        width: of the network's two hidden layers.
        rounds: of matching and training.
    """

    def __init__(self, noise_dim: int = 16, width: int = 256, rounds: int = 1000):
        self.noise_dim, self.width, self.rounds = noise_dim, width, rounds

    def fit(self, codes: Tensor) -> IMLE:
        self.mean, self.std = _moments(codes)
        scaled = _scaled(codes, self.mean, self.std)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Sequential(
                nn.Linear(self.noise_dim, self.width),
                nn.ReLU(),
                nn.Linear(self.width, self.width),
                nn.ReLU(),
                nn.Linear(self.width, codes.shape[1]),
            )
            optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-3)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.rounds)
            for _ in range(self.rounds):
                targets = scaled[torch.randint(len(scaled), (512,))]
                noise = torch.randn(4096, self.noise_dim)
                with torch.no_grad():
                    noise = noise[torch.cdist(targets, self.network(noise)).argmin(1)]
                for some_noise, some_targets in zip(noise.split(64), targets.split(64), strict=True):
                    loss = (self.network(some_noise) - some_targets).square().sum(1).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                schedule.step()
        return self

    @torch.no_grad()
    def sample(self, num: int, seed: int = 0) -> Tensor:
        return self.mean + self.std * self.network(_noise(num, self.noise_dim, seed))


PRIORS: dict[str, Callable[[], Prior]] = {
    "flow": Flow,
    "gaussian": Gaussian,
    "diagonal": Diagonal,
    "mixture": Mixture,
    "kde": KDE,
    "imle": IMLE,
}


def default_prior(num_codes: int, latent_dim: int) -> str:
    """The prior for so many codes: ``flow`` from 1,000 and from 20 for each dimension on, below that ``mixture``."""
    return "flow" if num_codes >= max(1000, 20 * latent_dim) else "mixture"


def make_prior(name: str, n_components: int | None = None) -> Prior:
    """Makes the prior of that name, still to be fitted.

    Args:
        name: ``flow``, ``gaussian``, ``diagonal``, ``mixture``, ``kde``, ``imle``, or the path of a class that is made
            without arguments and has ``fit`` and ``sample`` as ``Prior`` says.
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
