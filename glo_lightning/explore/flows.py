"""Uses of a run's flow: conditions of samples, interpolation through its noise, a space to edit codes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glo_lightning.errors import InputError, check_choice
from glo_lightning.explore.paths import INTERPOLATIONS, Interpolation, between, fractions_of, resample_path, slerp
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.latents import Projection, identity
from glo_lightning.priors.flow import MIN_CODES, Flow, enough_codes
from glo_lightning.priors.prior import make_prior

MIN_LABELLED = 20  # training images with a label that samples are asked to have
Change = Callable[[Tensor], Tensor]  # of places (B, D)
SOLVER_STEPS = 8  # of the flow: the ends need not come back from noise
GUIDANCE = 1.25  # of the flow; more makes paths longer
PLACES = 17  # of a path that are decoded from noise; others are interpolated
TOWARDS_ARC = 0.2  # part of the distance to the arc; more makes paths shorter and their images less real
EVENNESS = 0.5  # of the steps; more spends more of them where one image turns into another


def fitted_flow(run: TrainedRun, key: str = "path", value: object = "flow") -> Flow:
    """Fit a flow to a run's codes and labels, or load it; see ``check_flow``."""
    check_flow(run, key, value)
    return run.fit_prior(make_prior("flow"))  # type: ignore[return-value]


def check_flow(run: TrainedRun, key: str, value: object) -> None:
    """Raise InputError for a run of too few codes for a flow; ``key`` is the flag that needs one."""
    if not enough_codes(len(run.rows)):
        why = f"{len(run.rows)} codes are too few for a flow, which needs {MIN_CODES}"
        remedy = "Do without, or train on more images."
        if key in ("condition", "guidance"):
            remedy = "Do without, which a mixture or a gaussian can, or train on more images."
        raise InputError(key, value, f"{why}. {remedy}")


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
    return "flow" if run.default_prior == "flow" else "arc"


def interpolation(run: TrainedRun, path: str) -> Interpolation:
    """Return the interpolation of that name: ``flow``, ``line`` or ``arc``; raise InputError for another."""
    check_choice("path", path, ("flow", *INTERPOLATIONS))
    return flow_path(fitted_flow(run)) if path == "flow" else INTERPOLATIONS[path]


def edit_space(run: TrainedRun, path: str) -> tuple[Change, Change]:
    """Return the maps from codes (B, D) to where they are edited, and back.

    With ``flow`` that is the noise of a flow, with ``line`` it is the codes themselves.
    """
    check_choice("path", path, ("flow", "line"))
    if path != "flow":
        return identity, identity
    fitted = fitted_flow(run)
    return fitted.encode, fitted.decode


def flow_path(flow: Flow) -> Interpolation:
    """Return the interpolation along ``path_places``, in nearly equal steps; its ends are the codes themselves."""

    def interpolate(start: Tensor, end: Tensor, steps: int | Tensor, project: Projection) -> Tensor:
        fractions = fractions_of(steps, start)
        codes = resample_path(path_places(flow, start, end, project), fractions.flatten(), EVENNESS)
        return torch.where(fractions == 0, start, torch.where(fractions == 1, end, codes))

    return interpolate


def path_places(flow: Flow, start: Tensor, end: Tensor, project: Projection) -> Tensor:
    """Find codes (PLACES, ..., D) from ``start`` to ``end`` (..., D), both included, through the noise of a flow.

    Both codes are carried to noise. The arc between the noises is carried back to codes, so the path stays where codes
    lie. Between groups of codes such a path jumps; it is therefore drawn a little towards the arc between the codes.
    """
    ends = torch.stack([start, end])
    noise = flow.encode(ends.flatten(0, -2), GUIDANCE, SOLVER_STEPS).view(ends.shape)
    places = slerp(noise[0], noise[1], PLACES, identity)
    learned = flow.decode(places.flatten(0, -2), guidance=GUIDANCE, steps=SOLVER_STEPS).view(places.shape).to(ends)
    path = project(between(learned, slerp(start, end, PLACES, identity), TOWARDS_ARC))
    path[0], path[-1] = start, end
    return path
