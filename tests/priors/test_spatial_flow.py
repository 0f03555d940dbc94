"""The flow of codes that have places: what it draws, and that it is saved and conditioned as any flow."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from glo_lightning.priors.fitting import fit_prior
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.gaussian import Gaussian
from glo_lightning.priors.velocity import SpatialVelocity

SIDE = 4


def smooth(num: int) -> torch.Tensor:
    """Normal codes (num, 2 * 4 * 4) whose neighbouring places are alike; the second channel is far from 0 and large."""
    noise = np.random.default_rng(0).normal(size=(num, 2, SIDE, SIDE))
    codes = torch.from_numpy(gaussian_filter(noise, (0, 0, 1, 1))).float()
    return (codes * torch.tensor([0.1, 3.0]).view(2, 1, 1) + torch.tensor([0.0, 5.0]).view(2, 1, 1)).flatten(1)


def spots(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (num, 4 * 4) of one bright spot at a random place in the dark, and whether it is on the right (num, 1)."""
    random = torch.Generator().manual_seed(0)
    places = torch.randint(SIDE**2, (num,), generator=random)
    codes = torch.eye(SIDE**2)[places] + 0.05 * torch.randn(num, SIDE**2, generator=random)
    return codes, (places[:, None] % SIDE >= SIDE // 2).long()


@pytest.fixture(scope="module")
def flow() -> Flow:
    """Fitted to spots, with their sides as labels."""
    return Flow(steps=500, width=96, blocks=1).fit(*spots(2000), [2], SIDE)


def test_smooth_codes_have_the_covariance_and_the_density_that_they_were_drawn_from():
    codes = smooth(4000)
    fitted = Flow(steps=200, width=96, blocks=1).fit(codes[:2000], side=SIDE)
    noise = torch.randn(2000, codes.shape[1], generator=torch.Generator().manual_seed(0))
    samples, scale = fitted.decode(noise, guidance=1, steps=8), codes.std(0)
    assert ((samples.mean(0) - codes.mean(0)) / scale).abs().max() < 0.15
    assert ((samples.T.cov() - codes.T.cov()) / scale / scale[:, None]).abs().max() < 0.2
    exact = torch.distributions.MultivariateNormal(codes.mean(0), codes.T.cov()).log_prob(codes[2000:2100])
    found = fitted.log_density(codes[2000:2100])
    assert float(found.mean()) == pytest.approx(float(exact.mean()), abs=10)  # of independent places: 4
    assert torch.corrcoef(torch.stack([found, exact]))[0, 1] > 0.7


def test_what_may_lie_anywhere_is_whole_in_each_sample(flow):
    def wholeness(codes: torch.Tensor) -> float:
        """How often there is one spot, and no second."""
        first, second = codes.topk(2).values.unbind(1)
        return float(((first > 0.7) & (second < 0.3)).float().mean())

    samples = flow.sample(200)
    assert wholeness(samples) > 0.7
    assert wholeness(Gaussian().fit(spots(2000)[0]).sample(400)) < 0.2
    assert len(samples.argmax(1).unique()) == SIDE**2


def test_conditions_are_obeyed(flow):
    for right in (0, 1):
        columns = flow.sample(100, conditions=torch.tensor([right])).argmax(1) % SIDE
        assert ((columns >= SIDE // 2) == right).float().mean() > 0.85


def test_a_code_comes_back_from_noise(flow):
    codes = spots(50)[0]
    assert (flow.decode(flow.encode(codes)) - codes).norm(dim=1).max() < 1e-2


def test_it_is_saved_beside_the_run_apart_from_a_flow_that_knows_no_places(tmp_path, monkeypatch):
    codes = smooth(600)
    fitted = fit_prior(Flow(steps=4, width=24, blocks=1), codes, None, tmp_path, SIDE)
    vector = fit_prior(Flow(steps=4, width=24, blocks=1), codes, None, tmp_path)
    assert isinstance(fitted.network, SpatialVelocity)
    assert not isinstance(vector.network, SpatialVelocity)
    monkeypatch.setattr(Flow, "fit", lambda *_: pytest.fail("fitted again"))
    loaded = fit_prior(Flow(steps=4, width=24, blocks=1), codes, None, tmp_path, SIDE)
    assert torch.equal(loaded.sample(5), fitted.sample(5))
    other = Flow(width=60).restore(fitted.state(), [], codes.device)  # of whatever width
    assert torch.equal(other.sample(5), fitted.sample(5))
