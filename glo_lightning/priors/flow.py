"""A flow from noise to codes: a prior that knows where the codes lie, and what leads from one to another among them."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from glo_lightning.errors import InputError
from glo_lightning.priors.velocity import Velocity

FEWEST = 500  # codes that a flow is fitted to
SOLVER_STEPS = 24  # of Runge and Kutta's fourth order: a code comes back from noise to within 1e-3
BATCH = 256
GUIDANCE = 2.0  # from the early network's velocity past the learned one
SHOWN_GUIDANCE = 1.5  # likewise, where attributes are shown
CHUNK = 2000  # places that are carried at once

Field = Callable[[Tensor, float], Tensor]  # velocities (B, D) at places (B, D) and a time


class Flow:
    """A prior that carries noise to codes on nearly straight ways.

    A network learns the velocity ``code - noise`` at ``(1 - t) noise + t code``: rectified flow (Liu, Gong and Liu,
    arXiv 2209.03003), flow matching (Lipman et al., arXiv 2210.02747). One code in twenty, 500 at most, is kept out of
    the training; the weights that suit these best stay.

    Where the images have attributes it is shown a random part of them, so that any, or none, may be given afterwards.
    A sample then begins with its attributes: each is drawn as often as the codes have it, whatever the others are, so
    that they may come together as in no image.

    The network is guided by what it was early in its training, when it knew neither the attributes nor where exactly
    the codes lie: velocities point from the early ones to the learned ones, and past them (Karras et al., *Guiding a
    Diffusion Model with a Bad Version of Itself*, arXiv 2406.02507; Ho and Salimans, arXiv 2207.12598).

    Args:
        steps: of the training, at most.
        width: of the network's hidden layers.
        blocks: of the network.
    """

    def __init__(self, steps: int = 3000, width: int = 384, blocks: int = 3):
        self.arguments = {"steps": steps, "width": width, "blocks": blocks}
        self.solver_steps = SOLVER_STEPS

    def fit(self, codes: Tensor, attributes: Tensor | None = None, sizes: Sequence[int] = ()) -> Flow:
        """Fits the flow on the codes' device, from random numbers of its own, with a bar.

        Args:
            codes: (N, D).
            attributes: (N, A), of each the number of its value.
            sizes: how many values each of the A attributes has.

        Raises:
            InputError: for fewer than 500 codes.
        """
        num_codes, latent_dim = codes.shape
        if num_codes < FEWEST:
            remedy = f"{num_codes} codes are too few for a flow, which needs {FEWEST}; give mixture or gaussian"
            raise InputError("prior", "flow", remedy)
        steps, device = self.arguments["steps"], codes.device
        network, random = self._network(latent_dim, sizes).to(device), torch.Generator(device).manual_seed(0)
        std, self.mean = torch.std_mean(codes.detach().float(), dim=0)
        self.std = std.clamp(min=torch.finfo(std.dtype).tiny)
        order = torch.randperm(num_codes, generator=random, device=device)
        scaled = self._scaled(codes)[order]
        given = None if attributes is None else attributes.to(device)[order]
        self.counts = [] if attributes is None else _counts(attributes, sizes)
        num_kept = min(500, num_codes // 20)
        kept = scaled[:num_kept].repeat(8, 1)
        kept_noise = torch.randn(kept.shape, generator=random, device=device)
        kept_times = torch.rand(len(kept), generator=random, device=device)
        averaged, least = copy.deepcopy(network), math.inf
        even = torch.arange(BATCH, device=device)  # spread over [0, 1]: the loss varies less from batch to batch
        fused = device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step / steps))
        for step in tqdm(range(1, steps + 1), "fitting the flow", unit=" steps", file=sys.stdout):
            rows = torch.randint(num_kept, num_codes, (BATCH,), generator=random, device=device)
            noise = torch.randn(BATCH, latent_dim, generator=random, device=device)
            times = (torch.rand(BATCH, generator=random, device=device) + even) / BATCH
            shown = None if given is None else _in_part(given[rows], random)
            _loss(network, noise, scaled[rows], times, shown).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            with torch.no_grad():
                weight = 1 - min(0.999, step / (10 + step))
                torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), weight)
                if step == max(1, steps // 6):
                    self.early = copy.deepcopy(averaged)
                if step % 250 == 0 or step == steps:
                    loss = float(_loss(averaged, kept_noise, kept, kept_times, None))
                    if loss < least:
                        least, self.network, self.stopped_at = loss, copy.deepcopy(averaged), step
                    elif step >= self.stopped_at + steps // 4:
                        break
        for fitted in (self.network, self.early):
            fitted.eval().requires_grad_(False)
        return self

    def sample(
        self,
        num: int,
        seed: int = 0,
        temperature: float = 1.0,
        given: Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Codes (num, D), on the CPU.

        Args:
            num: how many to draw.
            seed: the same seed draws the same codes.
            temperature: what the noise is multiplied with.
            given: (A,), the number of each attribute's value, -1 for one that is not given; see ``Attributes.numbers``.
                Those are drawn, and these count twice: velocities go as far past those of the others alone (Ho and
                Salimans, arXiv 2207.12598).
            guidance: 1 draws as learned; more is more typical of the codes and truer to what is given, and varies less.
                1.5 if not given, or 2 without attributes.
        """
        random = torch.Generator().manual_seed(seed)
        noise = (temperature * torch.randn(num, len(self.mean), generator=random)).to(self.mean)
        if not self.counts:
            return self.decode(noise, guidance=GUIDANCE if guidance is None else guidance).cpu()
        drawn = torch.stack([_draw(counts, num, random) for counts in self.counts], dim=1)
        shown = drawn if given is None else torch.where(given < 0, drawn, given)
        guidance = SHOWN_GUIDANCE if guidance is None else guidance
        others = None if given is None else torch.where(given < 0, drawn, -1)
        codes = []
        for part in (slice(first, first + CHUNK) for first in range(0, num, CHUNK)):
            without = None if others is None else others[part]
            codes.append(self.decode(noise[part], shown[part], guidance, without))
        return torch.cat(codes).cpu()

    def encode(self, codes: Tensor, guidance: float = GUIDANCE) -> Tensor:
        """The noise (B, D) that the flow carries to codes (B, D)."""
        return self._to_noise(codes, partial(self._velocity, given=None, guidance=guidance))

    def decode(
        self,
        noise: Tensor,
        given: Tensor | None = None,
        guidance: float = GUIDANCE,
        others: Tensor | None = None,
    ) -> Tensor:
        """The codes (B, D) that the flow carries noise (B, D) to.

        ``given`` are attributes (A,), or (B, A) of at most 2,000. With ``others``, what they are without those that
        were asked for, the latter count twice.
        """
        return self._to_codes(noise, partial(self._velocity, given=given, guidance=guidance, others=others))

    def log_density(self, codes: Tensor, probes: int = 4, steps: int = SOLVER_STEPS) -> Tensor:
        """The log-density (B,) of codes (B, D) as learned, in nats; its divergence is estimated by random probes.

        After Hutchinson (1989), as Grathwohl et al. (arXiv 1810.01367) use it. The probes are the same in each call,
        and so it is a function of the codes; of codes that require gradients it has them.
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
        """All that was fitted, as tensors."""
        networks = {"network": self.network, "early": self.early}
        weights = {f"{name}.{key}": value for name, n in networks.items() for key, value in n.state_dict().items()}
        counts = {f"counts.{number}": counts for number, counts in enumerate(self.counts)}
        return {"mean": self.mean, "std": self.std, **counts, **weights}

    def restore(self, state: Mapping[str, Tensor], sizes: Sequence[int], device: torch.device) -> Flow:
        """Takes ``state`` for a fit to attributes of these sizes."""
        self.mean, self.std = state["mean"].to(device), state["std"].to(device)
        self.counts = [state[f"counts.{number}"].cpu() for number in range(len(sizes))]
        self.network, self.early = (
            self._restored(f"{name}.", state, sizes).to(device) for name in ("network", "early")
        )
        return self

    def _restored(self, prefix: str, state: Mapping[str, Tensor], sizes: Sequence[int]) -> Velocity:
        network = self._network(len(self.mean), sizes)
        network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        return network.eval().requires_grad_(False)

    def _network(self, latent_dim: int, sizes: Sequence[int]) -> Velocity:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Velocity(latent_dim, sizes, self.arguments["width"], self.arguments["blocks"])

    def _scaled(self, codes: Tensor) -> Tensor:
        return (codes.detach().float() - self.mean) / self.std

    def _velocity(
        self, places: Tensor, time: float, given: Tensor | None, guidance: float, others: Tensor | None = None
    ) -> Tensor:
        times = places.new_full((len(places),), time)

        def learned(attributes: Tensor | None) -> Tensor:
            shown = None if attributes is None else torch.atleast_2d(attributes).to(places.device)
            return self.network(places, times, shown)

        velocity = learned(given)
        guided = velocity if guidance == 1 else torch.lerp(self.early(places, times), velocity, guidance)
        return guided if others is None else guided + velocity - learned(others)

    def _to_noise(self, codes: Tensor, velocity: Field) -> Tensor:
        return self._carry(self._scaled(codes.to(self.mean)), 1.0, 0.0, velocity)

    def _to_codes(self, noise: Tensor, velocity: Field) -> Tensor:
        return self.mean + self.std * self._carry(noise.to(self.mean), 0.0, 1.0, velocity)

    @torch.no_grad()
    def _carry(self, places: Tensor, start: float, end: float, velocity: Field) -> Tensor:
        """Solves the flow's differential equation by Runge and Kutta's fourth order, ``CHUNK`` places at a time."""
        length, carried = (end - start) / self.solver_steps, []
        for some in places.split(CHUNK):
            for step in range(self.solver_steps):
                slopes: list[Tensor] = []
                for part in (0.0, 0.5, 0.5, 1.0):
                    place = some + part * length * slopes[-1] if slopes else some
                    slopes.append(velocity(place, start + (step + part) * length))
                some = some + length / 6 * (slopes[0] + 2 * slopes[1] + 2 * slopes[2] + slopes[3])
            carried.append(some)
        return torch.cat(carried)


def _loss(network: nn.Module, noise: Tensor, codes: Tensor, times: Tensor, given: Tensor | None) -> Tensor:
    velocity = network(torch.lerp(noise, codes, times[:, None]), times, given)
    return (velocity - (codes - noise)).square().mean()


def rate_at(done: float) -> float:
    """Of the learning rate, where so much of the training is done: up in a twentieth of it, then a cosine to zero."""
    return min(1, 20 * done + 0.01) * (1 + math.cos(math.pi * done)) / 2


def _counts(attributes: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """How many of the codes have each value of each attribute (N, A)."""
    columns = zip(attributes.cpu().unbind(1), sizes, strict=True)
    return [torch.bincount(column[column >= 0], minlength=size) for column, size in columns]


def _draw(counts: Tensor, num: int, random: torch.Generator) -> Tensor:
    """An attribute's values (num,), each as often as it is counted; -1 where none is known."""
    if not counts.any():
        return torch.full((num,), -1)
    return torch.multinomial(counts.float(), num, replacement=True, generator=random)


def _in_part(given: Tensor, random: torch.Generator) -> Tensor:
    """Attributes (B, A) of which none are shown to every second image, and a random number of them to the others."""

    def chance(*size: int) -> Tensor:
        return torch.rand(size, generator=random, device=given.device)

    shown = (chance(*given.shape) < chance(len(given), 1)) & (chance(len(given), 1) < 0.5)
    return given.where(shown, torch.full_like(given, -1))
