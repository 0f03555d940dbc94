"""Paths through the noise of a flow, on the ring of test_flow.py."""

import torch
from test_flow import flow, off_the_ring, ring  # noqa: F401

from glo_lightning.explore.flows import flow_path, path_places
from glo_lightning.explore.paths import lerp
from glo_lightning.latents import identity, to_ball


def test_a_path_stays_among_the_codes(flow):  # noqa: F811
    start, end = ring(2000)[:100].split(50)
    across = (start[:, :2] * end[:, :2]).sum(1) < 0  # more than a quarter of the circle apart
    path = flow_path(flow)(start, end, 9, identity)
    assert path.shape == (9, 50, 3)
    assert torch.equal(path[0], start)
    assert torch.equal(path[-1], end)
    assert off_the_ring(path[:, across]).mean() < 0.5 * off_the_ring(lerp(start, end, 9, identity)[:, across]).mean()


def test_a_path_goes_evenly(flow):  # noqa: F811
    start, end = ring(2000)[:60].split(30)
    decoded, even = (
        path.diff(dim=0).norm(dim=2)
        for path in (path_places(flow, start, end, identity), flow_path(flow)(start, end, 17, identity))
    )
    largest = [float((steps.max(0).values / steps.mean(0)).mean()) for steps in (decoded, even)]
    assert largest[1] - 1 < 0.7 * (largest[0] - 1)
    chosen = flow_path(flow)(start, end, torch.tensor([0.0, 0.25, 1.0]), identity)
    torch.testing.assert_close(chosen, flow_path(flow)(start, end, 5, identity)[[0, 1, 4]])
    assert torch.equal(chosen[2], end)


def test_a_path_does_not_depend_on_others(flow):  # noqa: F811
    codes = ring(2000)
    many = flow_path(flow)(codes[:5], codes[5:10], 4, to_ball)
    torch.testing.assert_close(flow_path(flow)(codes[2], codes[7], 4, to_ball), many[:, 2], atol=1e-5, rtol=1e-5)
    assert many.norm(dim=-1).max() <= 1 + 1e-6
