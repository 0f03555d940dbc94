"""A path between two codes through the noise of a flow: it stays where codes lie."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from glo_lightning.explore.paths import Interpolation, between, fractions_of, resample_path, slerp
from glo_lightning.latents import Projection, identity
from glo_lightning.priors.flow import Flow

SOLVER_STEPS = 8  # of the flow: the ends need not come back from noise
GUIDANCE = 1.25  # of the flow; more makes paths longer
PLACES = 17  # of a path that are decoded from noise; others are interpolated
TOWARDS_ARC = 0.2  # part of the distance to the arc; more makes paths shorter and their images less real
EVENNESS = 0.5  # of the steps; more spends more of them where one image turns into another


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
    flow = copy.copy(flow)
    flow.solver_steps = SOLVER_STEPS
    ends = torch.stack([start, end])
    noise = flow.encode(ends.flatten(0, -2), GUIDANCE).view(ends.shape)
    places = slerp(noise[0], noise[1], PLACES, identity)
    learned = flow.decode(places.flatten(0, -2), guidance=GUIDANCE).view(places.shape).to(ends)
    path = project(between(learned, slerp(start, end, PLACES, identity), TOWARDS_ARC))
    path[0], path[-1] = start, end
    return path
