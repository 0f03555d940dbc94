"""The priors of a run, fitted to its codes and labels; its flow also leads from code to code."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from glo_lightning.errors import InputError
from glo_lightning.explore.flow_path import flow_path
from glo_lightning.explore.paths import INTERPOLATIONS, Interpolation
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.latents import identity
from glo_lightning.priors import flow
from glo_lightning.priors.fitting import fit_prior
from glo_lightning.priors.prior import Prior, default_prior, make_prior

MIN_LABELLED = 20  # training images with a label that samples are asked to have
Change = Callable[[Tensor], Tensor]  # of places (B, D)


def fitted_prior(run: TrainedRun, name: str, n_components: int | None = None) -> Prior:
    """Fit a prior to a run's codes and labels, or load it; see ``make_prior`` and ``fit_prior``."""
    return fit_prior(make_prior(name, n_components), run.codes, run.attributes, run.folder)


def fitted_flow(run: TrainedRun, key: str = "path", value: object = "flow") -> flow.Flow:
    """Fit a flow to a run's codes and labels, or load it.

    Args:
        run: the run.
        key, value: the flag that needs the flow, for the error.

    Raises:
        InputError: for too few codes.
    """
    if not flow.enough_codes(len(run.codes)):
        why = f"{len(run.codes)} codes are too few for a flow, which needs {flow.MIN_CODES}"
        raise InputError(key, value, f"{why}. Do without, or train on more images.")
    return fitted_prior(run, "flow")  # type: ignore[return-value]


def parse_conditions(run: TrainedRun, labels: Sequence[str]) -> Tensor | None:
    """Parse ``name=value`` into conditions of samples (A,); None without any. See ``Attributes.parse``.

    Raises:
        InputError: for images without labels, a label that does not exist, or one of fewer than 20 training images.
    """
    for label in labels:
        number = len(run.rows_with([label]))
        if number < MIN_LABELLED:
            remedy = f"only {number} training images have it, {MIN_LABELLED} are needed. Give another label."
            raise InputError("condition", label, remedy)
    return run.attributes.parse(labels) if labels and run.attributes else None


def default_path(run: TrainedRun) -> str:
    """Choose ``flow`` where there are enough codes for a good one, else ``arc``."""
    return "flow" if default_prior(*run.codes.shape) == "flow" else "arc"


def interpolation(run: TrainedRun, path: str) -> Interpolation:
    """Return the interpolation of that name: ``flow``, ``line`` or ``arc``."""
    return flow_path(fitted_flow(run)) if path == "flow" else INTERPOLATIONS[path]


def edit_space(run: TrainedRun, path: str) -> tuple[Change, Change]:
    """Return the maps from codes (B, D) to where they are edited, and back: a flow's noise, or the codes themselves."""
    if path != "flow":
        return identity, identity
    fitted = fitted_flow(run)
    return fitted.encode, fitted.decode
