"""The network of a flow: velocities at places between noise and codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual block of two layers, (B, W) to (B, W), told of time and attributes by a context (B, W)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.enter, self.leave = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden: Tensor, context: Tensor) -> Tensor:
        return hidden + self.leave(F.silu(self.enter(self.norm(hidden) + context)))


class Velocity(nn.Module):
    """The velocity (B, D) at places (B, D) and times (B,) in [0, 1], where some of A attributes may be given.

    Args:
        latent_dim: D.
        sizes: how many values each of the attributes has.
        width: of the hidden layers.
        blocks: residual ones.
    """

    first_entry: Tensor
    frequencies: Tensor

    def __init__(self, latent_dim: int, sizes: Sequence[int], width: int, blocks: int):
        super().__init__()
        first = [0]
        for size in sizes:
            first.append(first[-1] + size + 1)  # its values, and that it is not given
        self.register_buffer("first_entry", torch.tensor(first[:-1], dtype=torch.long))
        self.register_buffer("frequencies", torch.logspace(0, 2, 32))
        self.given = nn.Embedding(first[-1], width)
        self.time = nn.Linear(64, width)
        self.enter = nn.Linear(latent_dim, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, latent_dim))
        nn.init.zeros_(self.given.weight)

    def forward(self, places: Tensor, times: Tensor, given: Tensor | None = None) -> Tensor:
        """``given`` (B, A) or (1, A): the number of each attribute's value, -1 for one that is not given."""
        angles = times[:, None] * self.frequencies
        context = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        if len(self.first_entry):
            given = self.first_entry.new_full((1, len(self.first_entry)), -1) if given is None else given
            context = context + self.given(given + 1 + self.first_entry).sum(1)
        hidden = self.enter(places)
        for block in self.blocks:
            hidden = block(hidden, context)
        return self.leave(hidden)
