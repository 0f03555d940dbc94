"""A flow from noise to codes: a prior that knows where the codes lie."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from glo_lightning.errors import InputError
from glo_lightning.priors.velocity import SpatialVelocity, Velocity
from glo_lightning.progress import Progress

MIN_CODES = 500  # for a fit
SOLVER_STEPS = 24  # of fourth-order Runge-Kutta: codes come back from noise to within 1e-3, with places to within 5e-3
GUIDANCE = 2.0  # from the early network's velocity past the learned one
CONDITIONAL_GUIDANCE = 1.5  # the same, where labels were learned
CHUNK = 2000  # places in a batch of the solver
CHANNEL_WIDTH = 6  # of a flow's width, for each channel of a network of codes that have places

Field = Callable[[Tensor, float], Tensor]  # velocities (B, D) at places (B, D) and a time


def enough_codes(num_codes: int) -> bool:
    """Whether there are enough codes to fit a flow."""
    return num_codes >= MIN_CODES


class Flow:
    """A prior that carries noise to codes along nearly straight paths.

    A network learns the velocity ``code - noise`` at ``(1 - t) noise + t code``: rectified flow (Liu, Gong and Liu,
    arXiv 2209.03003), flow matching (Lipman et al., arXiv 2210.02747). One code in twenty, 500 at most, is held out;
    the weights with the lowest loss on these are kept.

    If the images have labels, training shows the network a random part of them, so that samples can be conditioned on
    any of them or on none. Sampling first draws the labels, each with its frequency among the codes and independently
    of the others, so that they may combine as in no training image.

    The network is guided by its own weights from early in the training, when it knew neither the labels nor exactly
    where the codes lie: velocities are extrapolated from the early ones past the learned ones (Karras et al., *Guiding
    a Diffusion Model with a Bad Version of Itself*, arXiv 2406.02507; Ho and Salimans, arXiv 2207.12598).

    Args:
        steps: largest number of training steps.
        width: of the network's hidden layers; where codes have places, a sixth of it is their number of channels.
        blocks: number of residual blocks.
    """

    takes_conditions = True

    def __init__(self, steps: int = 3000, width: int = 384, blocks: int = 3):
        self.arguments = {"steps": steps, "width": width, "blocks": blocks}

    def fit(self, codes: Tensor, labels: Tensor | None = None, sizes: Sequence[int] = (), side: int = 1) -> Flow:
        """Fit the flow on the codes' device, with its own random numbers and a progress bar.

        Args:
            codes: (N, D).
            labels: (N, A), the number of each attribute's value; -1 where it is unknown.
            sizes: how many values each of the A attributes has.
            side: number of places from left to right of codes that are (D / side**2, side, side), flattened.

        Raises:
            InputError: for fewer than 500 codes.
        """
        num_codes, latent_dim = codes.shape
        if not enough_codes(num_codes):
            remedy = f"{num_codes} codes are too few for a flow, which needs {MIN_CODES}. Give mixture or gaussian."
            raise InputError("prior", "flow", remedy)
        device = codes.device
        network, random = self._network(latent_dim, sizes, side).to(device), torch.Generator(device).manual_seed(0)
        std, self.mean = torch.std_mean(codes.detach().float(), dim=0)
        if side > 1:  # one for each channel: weights are the same for all places, so the same should be the same there
            std = std.view(-1, side**2).square().mean(1).sqrt().repeat_interleave(side**2)
        self.std = std.clamp(min=torch.finfo(std.dtype).tiny)
        columns = [] if labels is None else labels.cpu().unbind(1)
        self.counts = [torch.bincount(c[c >= 0], minlength=size) for c, size in zip(columns, sizes, strict=True)]
        order = torch.randperm(num_codes, generator=random, device=device)
        shuffled = None if labels is None else labels.to(device)[order]
        self._train(network, self._scaled(codes)[order], shuffled, random)
        self._networks().eval().requires_grad_(False)
        return self

    def _train(self, network: Velocity, codes: Tensor, labels: Tensor | None, random: torch.Generator) -> None:
        """Train the network on scaled codes (N, D) in random order; set ``early``, ``network`` and ``best_step``."""
        steps, batch = self.arguments["steps"], network.batch_size
        (num_codes, latent_dim), device = codes.shape, codes.device
        num_held_out = min(500, num_codes // 20)
        held_out = codes[:num_held_out].repeat(8, 1)
        held_out_noise = torch.randn(held_out.shape, generator=random, device=device)
        held_out_times = torch.rand(len(held_out), generator=random, device=device)
        averaged, lowest = copy.deepcopy(network), math.inf
        strata = torch.arange(batch, device=device)  # of [0, 1]: the loss varies less from batch to batch
        fused = device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step / steps))
        for step in Progress(range(1, steps + 1), "fitting the flow", unit=" steps"):
            rows = torch.randint(num_held_out, num_codes, (batch,), generator=random, device=device)
            noise = torch.randn(batch, latent_dim, generator=random, device=device)
            times = (torch.rand(batch, generator=random, device=device) + strata) / batch
            conditions = None if labels is None else _random_part(labels[rows], random)
            _loss(network, noise, codes[rows], times, conditions).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            with torch.no_grad():
                weight = 1 - min(0.999, step / (10 + step))
                torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), weight)
                if step == max(1, steps // 6):
                    self.early = copy.deepcopy(averaged)
                if step % 250 == 0 or step == steps:
                    loss = float(_loss(averaged, held_out_noise, held_out, held_out_times, None))
                    if loss < lowest:
                        lowest, self.network, self.best_step = loss, copy.deepcopy(averaged), step
                    elif steps > step >= self.best_step + steps // 4:
                        break

    def sample(
        self,
        num: int,
        seed: int = 0,
        temperature: float = 1.0,
        conditions: Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Draw codes (num, D), on the CPU.

        Args:
            temperature: scales the noise.
            conditions: (A,), the number of each attribute's value, or -1 to draw it; see ``Attributes.parse``. Chosen
                values count twice: velocities are extrapolated past those without them (Ho and Salimans).
            guidance: 1 draws as learned. More is more typical of the codes and truer to the labels, and varies less.
                1.5 by default, or 2 without labels.
        """
        random = torch.Generator().manual_seed(seed)
        noise = (temperature * torch.randn(num, len(self.mean), generator=random)).to(self.mean)
        if not self.counts:
            return self.decode(noise, guidance=GUIDANCE if guidance is None else guidance).cpu()
        guidance = CONDITIONAL_GUIDANCE if guidance is None else guidance
        labels = torch.stack([_draw(counts, num, random) for counts in self.counts], dim=1)
        base: Tensor | None = None
        if conditions is not None:
            base = torch.where(conditions < 0, labels, -1)
            labels = torch.where(conditions < 0, labels, conditions)
        codes = []
        for part in (slice(first, first + CHUNK) for first in range(0, num, CHUNK)):
            codes.append(self.decode(noise[part], labels[part], guidance, None if base is None else base[part]))
        return torch.cat(codes).cpu()

    def encode(self, codes: Tensor, guidance: float = GUIDANCE, steps: int = SOLVER_STEPS) -> Tensor:
        """Find the noise (B, D) that the flow carries to codes (B, D)."""
        velocity = partial(self._velocity, conditions=None, guidance=guidance)
        return _carry(self._scaled(codes.to(self.mean)), 1.0, 0.0, velocity, steps)

    def decode(
        self,
        noise: Tensor,
        conditions: Tensor | None = None,
        guidance: float = GUIDANCE,
        base_conditions: Tensor | None = None,
        steps: int = SOLVER_STEPS,
    ) -> Tensor:
        """Carry noise (B, D) to codes (B, D).

        Args:
            conditions: attributes, (A,), or (B, A) for at most 2,000 codes.
            guidance: see ``sample``.
            base_conditions: the conditions without the chosen ones, which then count twice.
        """
        velocity = partial(self._velocity, conditions=conditions, guidance=guidance, base_conditions=base_conditions)
        return self.mean + self.std * _carry(noise.to(self.mean), 0.0, 1.0, velocity, steps)

    def log_density(self, codes: Tensor, probes: int = 4, steps: int = SOLVER_STEPS) -> Tensor:
        """Estimate the log-density (B,) of codes (B, D) in nats; gradients flow to codes that require them.

        The divergence is estimated by random probes (Hutchinson 1989; Grathwohl et al., arXiv 1810.01367). The probes
        are the same in each call, so equal codes have equal densities.
        """
        random = torch.Generator(self.mean.device).manual_seed(0)
        tracked = codes.requires_grad and torch.is_grad_enabled()
        codes = codes if tracked else codes.detach()
        places, length = (codes.to(self.mean) - self.mean) / self.std, 1 / steps
        divergence = places.new_zeros(len(places))
        for step in range(steps):
            time = 1 - step * length
            middle = places - length / 2 * self._velocity(places, time, None, 1.0)
            with torch.enable_grad():
                middle = middle if tracked else middle.requires_grad_()
                velocity = self._velocity(middle, time - length / 2, None, 1.0)
                for _ in range(probes):
                    probe = torch.randn(places.shape[1:], generator=random, device=places.device).sign()
                    probe = probe.expand_as(places)
                    (change,) = torch.autograd.grad(velocity, middle, probe, retain_graph=True, create_graph=tracked)
                    divergence = divergence + length / probes * (probe * change).sum(1)
            places = places - length * (velocity if tracked else velocity.detach())
        normal = -0.5 * (places.square().sum(1) + places.shape[1] * math.log(2 * math.pi))
        return normal - divergence - self.std.log().sum()

    def state(self) -> dict[str, Tensor]:
        """Return everything that was fitted, as tensors."""
        weights = self._networks().state_dict()
        counts = {f"counts.{number}": counts for number, counts in enumerate(self.counts)}
        return {"mean": self.mean, "std": self.std, **counts, **weights}

    def restore(self, state: Mapping[str, Tensor], sizes: Sequence[int], device: torch.device) -> Flow:
        """Load ``state`` of a flow, of whatever width, that was fitted to attributes of these sizes."""
        blocks = sum(key.startswith("network.blocks.") and key.endswith(".norm.weight") for key in state)
        width, side = len(state["network.enter.weight"]), 1
        if "network.position.bias" in state:
            side = math.isqrt(len(state["network.position.bias"]) // width)
            width *= CHANNEL_WIDTH
        self.arguments |= {"width": width, "blocks": blocks}
        self.mean, self.std = state["mean"].to(device), state["std"].to(device)
        self.counts = [state[f"counts.{number}"].cpu() for number in range(len(sizes))]
        self.network, self.early = (self._network(len(self.mean), sizes, side) for _ in range(2))
        networks = self._networks()
        networks.load_state_dict({key: state[key] for key in networks.state_dict()})
        networks.to(device).eval().requires_grad_(False)
        return self

    def _networks(self) -> nn.ModuleDict:
        return nn.ModuleDict({"network": self.network, "early": self.early})

    def _network(self, latent_dim: int, sizes: Sequence[int], side: int) -> Velocity:
        width, blocks = self.arguments["width"], self.arguments["blocks"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if side == 1:
                return Velocity(latent_dim, sizes, width, blocks)
            return SpatialVelocity(latent_dim, sizes, width // CHANNEL_WIDTH, blocks, side)

    def _scaled(self, codes: Tensor) -> Tensor:
        return (codes.detach().float() - self.mean) / self.std

    def _velocity(
        self,
        places: Tensor,
        time: float,
        conditions: Tensor | None,
        guidance: float,
        base_conditions: Tensor | None = None,
    ) -> Tensor:
        times = places.new_full((len(places),), time)
        velocity = self.network(places, times, conditions)
        guided = velocity if guidance == 1 else torch.lerp(self.early(places, times), velocity, guidance)
        if base_conditions is None:
            return guided
        return guided + velocity - self.network(places, times, base_conditions)


@torch.no_grad()
def _carry(places: Tensor, start: float, end: float, velocity: Field, steps: int) -> Tensor:
    """Solve the flow's differential equation by fourth-order Runge-Kutta, ``CHUNK`` places at a time."""
    length, carried = (end - start) / steps, []
    for chunk in places.split(CHUNK):
        for step in range(steps):
            slopes: list[Tensor] = []
            for part in (0.0, 0.5, 0.5, 1.0):
                place = chunk + part * length * slopes[-1] if slopes else chunk
                slopes.append(velocity(place, start + (step + part) * length))
            chunk = chunk + length / 6 * (slopes[0] + 2 * slopes[1] + 2 * slopes[2] + slopes[3])
        carried.append(chunk)
    return torch.cat(carried)


def _loss(network: nn.Module, noise: Tensor, codes: Tensor, times: Tensor, conditions: Tensor | None) -> Tensor:
    velocity = network(torch.lerp(noise, codes, times[:, None]), times, conditions)
    return (velocity - (codes - noise)).square().mean()


def lr_factor(done: float) -> float:
    """The learning rate at a fraction of the training: up during the first twentieth, then a cosine to zero."""
    return min(1, 20 * done + 0.01) * (1 + math.cos(math.pi * done)) / 2


def _draw(counts: Tensor, num: int, random: torch.Generator) -> Tensor:
    """Draw an attribute's values (num,) by their counts; -1 where no value is known."""
    if not counts.any():
        return torch.full((num,), -1)
    return torch.multinomial(counts.float(), num, replacement=True, generator=random)


def _random_part(labels: Tensor, random: torch.Generator) -> Tensor:
    """Hide labels (B, A): all of them for every second image on average, else a random number."""

    def chance(*size: int) -> Tensor:
        return torch.rand(size, generator=random, device=labels.device)

    kept = (chance(*labels.shape) < chance(len(labels), 1)) & (chance(len(labels), 1) < 0.5)
    return labels.where(kept, torch.full_like(labels, -1))
