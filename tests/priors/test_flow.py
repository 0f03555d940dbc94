"""The flow: where its samples lie, that it can be undone, what it says of densities and labels."""

import math

import pytest
import torch

from glo_lightning.errors import InputError
from glo_lightning.latents import identity
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.gaussian import Gaussian
from glo_lightning.priors.prior import sample_codes


def ring(num: int) -> torch.Tensor:
    """Codes (num, 3) on a circle of radius 0.8, where none lies near the middle."""
    angles = torch.rand(num, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    noise = 0.08 * torch.randn(num, 3, generator=torch.Generator().manual_seed(1))
    return noise + 0.8 * torch.stack([angles.cos(), angles.sin(), torch.zeros(num)], 1)


def off_the_ring(codes: torch.Tensor) -> torch.Tensor:
    return (codes[..., :2].norm(dim=-1) - 0.8).abs()


@pytest.fixture(scope="module")
def flow() -> Flow:
    """Fitted to the ring, with one attribute: its lower half, its upper half."""
    codes = ring(2000)
    return Flow(steps=600, width=64, blocks=2).fit(codes, (codes[:, 1:2] > 0).long(), [2])


def test_samples_lie_where_codes_lie(flow):
    samples = sample_codes(flow, ring(2000), 400, identity)
    assert off_the_ring(samples).mean() < 0.1
    assert off_the_ring(sample_codes(Gaussian().fit(ring(2000)), ring(2000), 400, identity)).mean() > 0.25
    assert samples[:, :2].mean(0).norm() < 0.1  # all around it


def test_a_code_comes_back_from_noise_to_within_a_thousandth(flow):
    codes = ring(50)
    back = flow.decode(flow.encode(codes))
    assert ((back - codes).norm(dim=1) / codes.norm(dim=1)).max() < 1e-3


def test_encoded_codes_are_normal(flow):
    noise = flow.encode(ring(500))
    assert noise.mean(0).abs().max() < 0.2
    torch.testing.assert_close(noise.std(0), torch.ones(3), atol=0.25, rtol=0)


def test_the_log_density_of_a_gaussian_is_its_own():
    scale = torch.tensor([1.0, 2.0, 0.1, 0.5])
    codes = 3 + scale * torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    flow = Flow(steps=300, width=32, blocks=2).fit(codes)
    expected = torch.distributions.Normal(torch.full((4,), 3.0), scale).log_prob(codes[:300]).sum(1)
    found = flow.log_density(codes[:300])
    assert float(found.mean()) == pytest.approx(float(expected.mean()), abs=0.2)
    assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.9


def test_what_is_given_is_followed_and_guidance_exaggerates_it(flow):
    upper = [float((flow.sample(200, 0, conditions=torch.tensor([n]))[:, 1] > 0).float().mean()) for n in (0, 1, -1)]
    assert upper[0] < 0.2
    assert upper[1] > 0.8
    assert 0.4 < upper[2] < 0.6  # -1 gives nothing
    heights = [float(flow.sample(200, 0, conditions=torch.tensor([1]), guidance=g)[:, 1].mean()) for g in (1, 3)]
    assert heights[1] > heights[0] + 0.02


def test_attributes_are_drawn_each_by_itself_as_often_as_codes_have_them_and_what_is_given_is_kept(monkeypatch):
    codes = ring(2000)
    quarter = (torch.arange(2000) % 4 == 0).long()
    table = torch.stack([quarter, quarter, torch.full((2000,), -1)], dim=1)  # always the same, and one that none knows
    flow = Flow(steps=6, width=8, blocks=1).fit(codes, table, [2, 2, 3])
    again = Flow(steps=6, width=8, blocks=1).restore(flow.state(), [2, 2, 3], codes.device)
    for some in (flow, again):
        monkeypatch.setattr(some, "decode", lambda noise, conditions, guidance, base: conditions.float())
    drawn = flow.sample(8000)
    assert torch.equal(drawn, again.sample(8000))
    torch.testing.assert_close(drawn[:, :2].mean(0), torch.tensor([0.25, 0.25]), atol=0.02, rtol=0)
    assert abs(float(torch.corrcoef(drawn[:, :2].T)[0, 1])) < 0.05
    assert (drawn[:, 2] == -1).all()
    asked = flow.sample(8000, conditions=torch.tensor([-1, 1, 2]))
    torch.testing.assert_close(asked[:, 0], drawn[:, 0])
    assert (asked[:, 1:] == torch.tensor([1.0, 2.0])).all()
    monkeypatch.setattr(flow, "decode", lambda noise, conditions, guidance, base: base.float())
    others = flow.sample(8000, conditions=torch.tensor([-1, 1, 2]))
    torch.testing.assert_close(others[:, 0], drawn[:, 0])
    assert (others[:, 1:] == -1).all()


def test_samples_follow_the_attributes_drawn_for_them(flow, monkeypatch):
    monkeypatch.setattr("glo_lightning.priors.flow.CHUNK", 150)
    upper = sample_codes(flow, ring(2000), 400, identity)[:, 1] > 0
    drawn = torch.Generator().manual_seed(0)
    torch.randn(400, 3, generator=drawn)
    wanted = torch.multinomial(flow.counts[0].float(), 400, replacement=True, generator=drawn)
    assert float((upper == (wanted == 1)).float().mean()) > 0.85


def test_what_is_given_counts_twice(flow):
    lower, noise = torch.tensor([0]), torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    drawn, asked = flow.decode(noise, lower, 1.0), flow.sample(300, 0, conditions=lower, guidance=1.0)
    torch.testing.assert_close(asked, flow.decode(noise, lower, 1.0, torch.tensor([-1])))
    assert asked[:, 1].mean() < drawn[:, 1].mean() - 0.02
    places, times = ring(5), torch.full((5,), 0.3)
    given, without = flow.network(places, times, lower[None]), flow.network(places, times)
    velocity = flow._velocity(places, 0.3, lower, 1.0, torch.tensor([-1]))
    torch.testing.assert_close(velocity, 2 * given - without)


def test_guidance_brings_samples_closer_to_the_codes_than_they_were_learned(flow):
    learned, guided = (off_the_ring(flow.sample(500, 0, guidance=guidance)).mean() for guidance in (1, 2))
    assert guided < 0.95 * learned
    assert not all(torch.equal(a, b) for a, b in zip(flow.early.parameters(), flow.network.parameters(), strict=True))


def test_the_seed_and_the_temperature_tell_the_samples(flow):
    assert torch.equal(flow.sample(10, 1), flow.sample(10, 1))
    assert not torch.equal(flow.sample(10, 1), flow.sample(10, 2))
    noise = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    upper = torch.tensor([1])
    found = flow.sample(10, 1, temperature=0.5, conditions=upper, guidance=1.2)
    torch.testing.assert_close(found, flow.decode(0.5 * noise, upper, 1.2, torch.tensor([-1])))
    plain = Flow(steps=20, width=16, blocks=1).fit(ring(600))  # without attributes
    torch.testing.assert_close(plain.sample(10, 1, temperature=0.5), plain.decode(0.5 * noise))


def test_a_fit_repeats_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second = (Flow(steps=20, width=16, blocks=1).fit(ring(600)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.sample(20, 0), second.sample(20, 0))


def test_a_fit_stays_with_what_suits_codes_that_it_was_not_shown(monkeypatch):
    # 100 codes without any rule, seen a thousand times: the later weights know them by heart
    monkeypatch.setattr("glo_lightning.priors.flow.MIN_CODES", 100)
    codes = torch.randn(100, 24, generator=torch.Generator().manual_seed(0))
    flow = Flow(steps=500, width=128, blocks=1).fit(codes)
    assert flow.best_step < 500


def test_too_few_codes_are_refused_and_counted():
    with pytest.raises(InputError, match=r"499 codes are too few for a flow, which needs 500\. Give mixture"):
        Flow().fit(ring(499))


def test_a_flow_is_restored_from_its_tensors(flow):
    state = flow.state()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    restored = Flow(steps=600, width=64, blocks=2).restore(state, [2], torch.device("cpu"))
    upper = torch.tensor([1])
    assert torch.equal(restored.sample(10, 0, conditions=upper), flow.sample(10, 0, conditions=upper))
