"""The way between two codes that goes through the noise of a flow."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from glo_lightning.explore.paths import Way, along, between, fractions_of, slerp
from glo_lightning.latents import Projection, unconstrained
from glo_lightning.priors.flow import Flow

SOLVER_STEPS = 8  # of the flow: the ends need not come back from noise
GUIDANCE = 1.25  # of the flow; more makes ways longer
PLACES = 17  # of a way that are carried from noise; others lie between two of these
DRAWN = 0.2  # of the distance between a way and the arc of its ends; more makes it shorter and its images less real
EVENNESS = 0.5  # of its steps; more puts more of them where one image turns into another


def path_through(flow: Flow, start: Tensor, end: Tensor, project: Projection) -> Tensor:
    """The codes (PLACES, ..., D) of a way through a flow from ``start`` to ``end`` (..., D), which are its ends.

    It goes from the noise of one end to that of the other on an arc, and back to codes, so that it stays where these
    lie. Between groups of codes such a way leaps: so it is drawn a little towards the arc between the two codes.
    """
    flow = copy.copy(flow)
    flow.solver_steps = SOLVER_STEPS
    ends = torch.stack([start, end])
    noise = flow.encode(ends.flatten(0, -2), GUIDANCE).view(ends.shape)
    places = slerp(noise[0], noise[1], PLACES, unconstrained)
    learned = flow.decode(places.flatten(0, -2), guidance=GUIDANCE).view(places.shape).to(ends)
    path = project(between(learned, slerp(start, end, PLACES, unconstrained), DRAWN))
    path[0], path[-1] = start, end
    return path


def through(flow: Flow) -> Way:
    """The way along ``path_through``, in steps that are nearly as long as each other; its ends are the given codes."""

    def way(start: Tensor, end: Tensor, steps: int | Tensor, project: Projection) -> Tensor:
        fractions = fractions_of(steps, start)
        codes = along(path_through(flow, start, end, project), fractions.flatten(), EVENNESS)
        return torch.where(fractions == 0, start, torch.where(fractions == 1, end, codes))

    return way
