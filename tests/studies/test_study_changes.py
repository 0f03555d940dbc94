"""The ways in which space.py gives a code another value of an attribute, on codes whose attributes are known."""

import math

import pytest
import torch
from changes import through_noise, wanted_less_present, with_less_without

from glo_lightning.explore.flow import Flow


@pytest.fixture(scope="module")
def codes():
    """On a circle of radius 0.8."""
    angles = torch.rand(2000, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    noise = 0.08 * torch.randn(2000, 3, generator=torch.Generator().manual_seed(1))
    return noise + 0.8 * torch.stack([angles.cos(), angles.sin(), torch.zeros(2000)], 1)


def test_a_value_between_two_others_is_reached_from_both():
    """Three values in a row: what leads to the middle one from one side leads past it from the other."""
    places = torch.arange(30) % 3
    codes = torch.stack([places.float(), torch.randn(30, generator=torch.Generator().manual_seed(0))], 1)
    table = torch.stack([torch.zeros_like(places), places], 1)
    ends, present = codes[[0, 2]], places[[0, 2]]
    to_the_middle = wanted_less_present(codes, table)(ends, present, 1, [1], 1.0)
    torch.testing.assert_close(to_the_middle[:, 0], torch.ones(2))
    assert with_less_without(codes, table)(ends, present, 1, [1], 1.0)[:, 0].tolist() == pytest.approx([0, 2])


def test_several_wanted_values_are_taken_in_turn():
    table, codes = torch.tensor([[0], [1], [2], [2]]), torch.tensor([[0.0], [10.0], [20.0], [40.0]])
    changed = wanted_less_present(codes, table)(torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]), 0, [1, 2], 0.5)
    assert changed[:, 0].tolist() == [5, 15, 0, 10]


def test_a_change_through_noise_makes_what_is_wanted_of_a_code_and_keeps_the_rest(codes):
    """The ring's lower half and its upper half mirror each other: what stays is how far left a code is."""
    upper = (codes[:, 1:2] > 0).long()
    flow = Flow(steps=600, width=64, blocks=2).fit(codes, upper, [2])
    lower = flow.sample(300, 0, given=torch.tensor([0]))
    lower = lower[lower[:, 1] < -0.2]
    change, present = through_noise(flow), torch.zeros(len(lower), dtype=torch.long)
    changed = change(lower, present, 0, [1], 2.0)
    assert (changed[:, 1] > 0).float().mean() > 0.95
    assert torch.corrcoef(torch.stack([changed[:, 0], lower[:, 0]]))[0, 1] > 0.9
    for same in (change(lower, present, 0, [0], 2.0), change(lower, present, 0, [1], 0.0)):
        torch.testing.assert_close(same, lower, atol=2e-3, rtol=0)
