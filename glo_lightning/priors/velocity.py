"""The network of a flow: velocities between noise and codes."""

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
        self.enter = nn.Linear(latent_dim, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, latent_dim))
        nn.init.zeros_(self.given.weight)

    def forward(self, places: Tensor, times: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Compute velocities; ``conditions`` (A,) or (B, A) are the numbers of values, -1 for an unknown one."""
        angles = times[:, None] * self.frequencies
        context = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        if len(self.first_entry):
            if conditions is None:
                conditions = torch.full_like(self.first_entry, -1)
            context = context + self.given(conditions.to(places.device) + 1 + self.first_entry).sum(-2)
        hidden = self.enter(places)
        for block in self.blocks:
            hidden = block(hidden, context)
        return self.leave(hidden)
