"""The networks of a flow: velocities between noise and codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual block of two layers, (B, W) to (B, W); a context (B, W) encodes time and conditions."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.enter, self.leave = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden: Tensor, context: Tensor) -> Tensor:
        return hidden + self.leave(F.silu(self.enter(self.norm(hidden) + context)))


class Velocity(nn.Module):
    """The velocity (B, D) at places (B, D) and times (B,) in [0, 1], conditioned on any of A attributes.

    ``sizes`` says how many values each attribute has, ``width`` is the size of the hidden layers.
    """

    batch_size = 256  # of its training
    first_entry: Tensor
    frequencies: Tensor

    def __init__(self, latent_dim: int, sizes: Sequence[int], width: int, blocks: int):
        super().__init__()
        first = [0]
        for size in sizes:
            first.append(first[-1] + size + 1)  # its values, and one entry for "unknown"
        self.register_buffer("first_entry", torch.tensor(first[:-1], dtype=torch.long))
        self.register_buffer("frequencies", torch.logspace(0, 2, 32))
        self.given = nn.Embedding(first[-1], width)  # of the conditions; files of fitted flows have this name
        self.time = nn.Linear(64, width)
        self._add_layers(latent_dim, width, blocks)
        nn.init.zeros_(self.given.weight)

    def _add_layers(self, latent_dim: int, width: int, blocks: int) -> None:
        self.enter: nn.Module = nn.Linear(latent_dim, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, latent_dim))

    def forward(self, places: Tensor, times: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Compute velocities; ``conditions`` (A,) or (B, A) are the numbers of values, -1 for an unknown one."""
        angles = times[:, None] * self.frequencies
        context = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        if len(self.first_entry):
            if conditions is None:
                conditions = torch.full_like(self.first_entry, -1)
            context = context + self.given(conditions.to(places.device) + 1 + self.first_entry).sum(-2)
        return self._layers(places, context)

    def _layers(self, places: Tensor, context: Tensor) -> Tensor:
        hidden = self.enter(places)
        for block in self.blocks:
            hidden = block(hidden, context)
        return self.leave(hidden)


class SpatialBlock(nn.Module):
    """A residual block of two 3x3 convolutions, (B, W, side, side) to the same; a context (B, W) scales and shifts."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.modulation = nn.GroupNorm(1, width), nn.Linear(width, 2 * width)
        self.enter, self.leave = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.leave.weight)

    def forward(self, hidden: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.modulation(context)[:, :, None, None].chunk(2, dim=1)
        return hidden + self.leave(F.silu(self.enter(self.norm(hidden)) * (1 + scale) + shift))


class SpatialVelocity(Velocity):
    """A Velocity of codes that are (D / side**2, side, side), flattened, by 3x3 convolutions of ``width`` channels."""

    batch_size = 128

    def __init__(self, latent_dim: int, sizes: Sequence[int], width: int, blocks: int, side: int):
        self.side = side
        super().__init__(latent_dim, sizes, width, blocks)
        nn.init.normal_(self.given.weight, std=0.3)  # conditions are learned sooner than from zero

    def _add_layers(self, latent_dim: int, width: int, blocks: int) -> None:
        channels = latent_dim // self.side**2
        self.position = nn.Linear(width, width * self.side**2)  # what time and conditions say of each place
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(SpatialBlock(width) for _ in range(blocks))
        last = nn.Conv2d(width, channels, 3, padding=1)
        self.leave = nn.Sequential(nn.GroupNorm(1, width), nn.SiLU(), last)
        nn.init.zeros_(last.weight)

    def _layers(self, places: Tensor, context: Tensor) -> Tensor:
        context = F.silu(context)
        images = places.unflatten(1, (-1, self.side, self.side)).contiguous(memory_format=torch.channels_last)
        hidden = self.enter(images)
        hidden = hidden + self.position(context).view(hidden.shape)
        for block in self.blocks:
            hidden = block(hidden, context)
        return self.leave(hidden).flatten(1)
