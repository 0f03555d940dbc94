"""What a prior is, the priors by name, and how codes are drawn from one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeGuard, runtime_checkable

from torch import Tensor

from glo_lightning.errors import InputError, check_at_least, check_range
from glo_lightning.latents import Projection
from glo_lightning.memory import check_fits
from glo_lightning.parts import make_instance
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.gaussian import Diagonal, Gaussian, Mixture

MAX_STRENGTH = 100  # of temperature and guidance: more of them overflows


@runtime_checkable
class Prior(Protocol):
    """A distribution over codes; your own class needs no base class.

    ``fit`` takes codes (N, D), float32 on any device. ``sample`` draws codes (num, D), float32 on the CPU, and the same
    ones for the same seed. Neither uses torch's global generator.
    """

    def fit(self, codes: Tensor) -> Any: ...

    def sample(self, num: int, seed: int) -> Tensor: ...


def takes_conditions(prior: Any) -> TypeGuard[Flow]:
    """Whether a prior learns labels and takes conditions; its class says so, and has the methods of ``Flow``."""
    return getattr(prior, "takes_conditions", False)


def check_conditions(prior: Prior, conditions: object, guidance: float | None) -> None:
    """Raise InputError for conditions or guidance where the prior takes none."""
    for key, value in (("condition", conditions), ("guidance", guidance)):
        if value is not None and not takes_conditions(prior):
            raise InputError(key, value, f"the prior {type(prior).__name__} takes no {key}. Give --prior flow.")


def check_draw(num: int, seed: int, temperature: float, guidance: float | None) -> None:
    """Raise InputError for values out of range; see ``sample_codes``."""
    check_at_least("num", num, 1)
    check_range("seed", seed, 0, 2**32 - 1)
    if not 0 < temperature <= MAX_STRENGTH:
        remedy = f"must be more than 0, and at most {MAX_STRENGTH}. Give 1 to sample the prior as it is."
        raise InputError("temperature", temperature, remedy)
    if guidance is not None:
        check_range("guidance", guidance, 0, MAX_STRENGTH)


PRIORS: dict[str, Callable[[], Prior]] = {"flow": Flow, "gaussian": Gaussian, "diagonal": Diagonal, "mixture": Mixture}


def default_prior(num_codes: int, latent_dim: int, side: int = 1) -> str:
    """Choose ``flow`` where there are 1,000 codes and 20 for each dimension, else ``mixture``.

    Of codes that have ``side * side`` places the dimensions of one count: what a flow learns of one it knows of all.
    """
    return "flow" if num_codes >= max(1000, 20 * latent_dim // side**2) else "mixture"


def make_prior(name: str, n_components: int | None = None) -> Prior:
    """Make the prior of that name, not fitted yet.

    Args:
        name: ``flow``, ``gaussian``, ``diagonal``, ``mixture``, or the path of a class, see ``Prior``, that is made
            without arguments.
        n_components: number of the mixture's components.

    Raises:
        InputError: for another name, or components of a prior that has none.
    """
    if n_components is not None:
        if name != "mixture":
            raise InputError("n_components", n_components, f"the prior {name} has no components. Give --prior mixture.")
        return Mixture(n_components)
    if name in PRIORS:
        return PRIORS[name]()
    remedy = f"Give {', '.join(PRIORS)} or the path of a class with fit(codes) and sample(num, seed)"
    return make_instance(name, Prior, "prior", remedy)


def sample_codes(
    prior: Prior,
    codes: Tensor,
    num: int,
    project: Projection,
    seed: int = 0,
    temperature: float = 1.0,
    conditions: Tensor | None = None,
    guidance: float | None = None,
) -> Tensor:
    """Draw projected codes (num, D) from a prior that was fitted to ``codes`` (N, D), on their device.

    Args:
        seed: from 0 to 2**32 - 1; the same seed draws the same codes.
        temperature: scales a flow's noise, or the distance of other samples from the mean code; at most 100. Below 1,
            samples are more typical and vary less.
        conditions, guidance: see ``Flow.sample``; guidance from 0 to 100.

    Raises:
        InputError: for a value out of range, and for conditions or guidance of a prior that takes none.
    """
    check_draw(num, seed, temperature, guidance)
    check_fits("num", num, "as many codes", 16 * num * codes.shape[1])
    mean, name = codes.detach().mean(0), type(prior).__name__
    if takes_conditions(prior):
        samples, temperature = prior.sample(num, seed, temperature, conditions, guidance).to(mean), 1.0
    else:
        check_conditions(prior, conditions, guidance)
        samples = prior.sample(num, seed).to(mean)
    if samples.shape != (num, len(mean)):
        shape, expected = tuple(samples.shape), (num, len(mean))
        raise InputError("prior", name, f"draws codes of shape {shape}. They must be {expected}.")
    return project(samples if temperature == 1 else mean + temperature * (samples - mean))
