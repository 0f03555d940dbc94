"""Ways to give the code of an image another value of an attribute, for space.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from glo_lightning.explore.flow import Flow

# (codes (B, D), their present values (B,), the attribute's column, the values wanted, strength) -> codes (B, D)
Change = Callable[[Tensor, Tensor, int, list[int], float], Tensor]


def with_less_without(codes: Tensor, table: Tensor) -> Change:
    """Adds the mean code of training images that have a wanted value, less that of those that have none.

    Args:
        codes: (N, D), of the training images.
        table: (N, A), the number of each attribute's value.
    """

    def change(some: Tensor, present: Tensor, column: int, wanted: list[int], strength: float) -> Tensor:
        has = torch.isin(table[:, column], torch.tensor(wanted))
        return some + strength * (codes[has].mean(0) - codes[~has].mean(0))

    return change


def wanted_less_present(codes: Tensor, table: Tensor) -> Change:
    """Adds the mean code of training images that have a wanted value, less that of those that have the present one.

    Of several wanted values each is taken in turn. ``arithmetic.py --a NAME=WANTED --b NAME=PRESENT`` does the same.
    """

    def change(some: Tensor, present: Tensor, column: int, wanted: list[int], strength: float) -> Tensor:
        one_hot = torch.nn.functional.one_hot(table[:, column]).to(codes)
        means = one_hot.T @ codes / one_hot.sum(0).clamp(min=1)[:, None]
        return some + strength * (means[_in_turn(wanted, len(some))] - means[present])

    return change


def through_noise(flow: Flow) -> Change:
    """Carries a code to the noise that leads to it where its present value is given, and back where the wanted one is.

    What the attribute does not tell lies in the noise, and stays. Velocities point from those without attributes to
    those with them, and so many times as far (Ho and Salimans, arXiv 2207.12598). Strength 0 changes nothing.
    """

    def steered(places: Tensor, time: float, given: Tensor, strength: float) -> Tensor:
        times = places.new_full((len(places),), time)
        plain = flow.network(places, times)
        return torch.lerp(plain, flow.network(places, times, given), strength)

    def change(some: Tensor, present: Tensor, column: int, wanted: list[int], strength: float) -> Tensor:
        made, goals = torch.empty_like(some), _in_turn(wanted, len(some))
        for before, after in set(zip(present.tolist(), goals.tolist(), strict=True)):
            those = (present == before) & (goals == after)
            given = torch.full((2, 1, len(flow.counts)), -1)
            given[:, 0, column] = torch.tensor([before, after])
            noise = flow._to_noise(some[those], partial(steered, given=given[0].to(some.device), strength=strength))
            made[those] = flow._to_codes(noise, partial(steered, given=given[1].to(some.device), strength=strength))
        return made

    return change


def _in_turn(wanted: list[int], num: int) -> Tensor:
    return torch.tensor(wanted)[torch.arange(num) % len(wanted)]
