"""Two priors that the flow beats, for --prior by class path.

PYTHONPATH=scripts/studies/priors python scripts/sample.py RUN --prior other_priors.KernelDensity
"""

from __future__ import annotations

import torch
from sklearn import neighbors
from sklearn.model_selection import GridSearchCV
from torch import Tensor, nn

from glo_lightning.errors import InputError


class Standardized:
    """The part both share: codes with mean 0 and standard deviation 1 in each coordinate, and samples scaled back."""

    def standardize(self, codes: Tensor) -> Tensor:
        codes = codes.detach().cpu()
        self.std, self.mean = torch.std_mean(codes, dim=0, correction=min(1, len(codes) - 1))
        return (codes - self.mean) / self.std.clamp(min=torch.finfo(self.std.dtype).tiny)

    def restore(self, samples: Tensor) -> Tensor:
        return self.mean + self.std * samples


class KernelDensity(Standardized):
    """scikit-learn's kernel density, a Gaussian kernel around every code.

    Its bandwidth, of 0.1 to 1 standard deviations, has the highest likelihood in five-fold cross-validation on at most
    2,000 codes.
    """

    def fit(self, codes: Tensor) -> KernelDensity:
        """Choose the bandwidth and keep the codes (N, D).

        Raises:
            InputError: for fewer than five codes.
        """
        if len(codes) < 5:
            remedy = f"{len(codes)} codes are too few for cross-validation. Give diagonal"
            raise InputError("prior", "other_priors.KernelDensity", remedy)
        scaled = self.standardize(codes).double()
        some = scaled[torch.randperm(len(scaled), generator=torch.Generator().manual_seed(0))[:2000]]
        search = GridSearchCV(neighbors.KernelDensity(), {"bandwidth": torch.logspace(-1, 0, 11).tolist()})
        self.bandwidth = search.fit(some.numpy()).best_params_["bandwidth"]
        self.density = neighbors.KernelDensity(bandwidth=self.bandwidth).fit(scaled.numpy())
        return self

    def sample(self, num: int, seed: int = 0) -> Tensor:
        return self.restore(torch.from_numpy(self.density.sample(num, random_state=seed)).float())


class IMLE(Standardized):
    """A small network from noise to codes, by implicit maximum likelihood estimation.

    Each round maps noise to 4,096 samples, finds the nearest of them for each of 512 codes, and trains the network to
    move that sample to the code: every code has a sample near it, so no mode is dropped. After Li and Malik, *Implicit
    Maximum Likelihood Estimation* (arXiv 1809.09087); on GLO's codes it is GLANN (Hoshen, Li and Malik, CVPR 2019). The
    samples spread less than the codes; a temperature above 1 makes up for it.

    Args:
        noise_dim: dimensions of the noise.
        width: of the network's two hidden layers.
        rounds: of matching and training.
    """

    def __init__(self, noise_dim: int = 16, width: int = 256, rounds: int = 1000):
        self.noise_dim, self.width, self.rounds = noise_dim, width, rounds

    def fit(self, codes: Tensor) -> IMLE:
        scaled, width = self.standardize(codes), self.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            hidden = [nn.Linear(self.noise_dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
            self.network = nn.Sequential(*hidden, nn.Linear(width, codes.shape[1]))
            optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-3)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.rounds)
            for _ in range(self.rounds):
                targets = scaled[torch.randint(len(scaled), (512,))]
                noise = torch.randn(4096, self.noise_dim)
                with torch.no_grad():
                    noise = noise[torch.cdist(targets, self.network(noise)).argmin(1)]
                for some_noise, some_targets in zip(noise.split(64), targets.split(64), strict=True):
                    loss = (self.network(some_noise) - some_targets).square().sum(1).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                schedule.step()
        return self

    @torch.no_grad()
    def sample(self, num: int, seed: int = 0) -> Tensor:
        noise = torch.randn(num, self.noise_dim, generator=torch.Generator().manual_seed(seed))
        return self.restore(self.network(noise))
