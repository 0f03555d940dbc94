"""Nearest neighbours, by code and by pixels."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.images import to_uint8


def nearest_rows(run: TrainedRun, codes: Tensor, images: Tensor) -> tuple[list[int], list[int]]:
    """Find the training images nearest to codes (M, D) and, by pixels, to images (M, C, H, W) in [-1, 1]."""
    by_code = nearest(codes, [(run.trained_codes, run.rows)])
    by_pixels = nearest(to_uint8(images), run.data.sequential_dataloader())
    return by_code.tolist(), by_pixels.tolist()


def nearest(queries: Tensor, references: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Find the index of the reference nearest to each query by Euclidean distance: (Q,), int64 on the CPU.

    The queries are (Q, ...). References are batches of (references (b, ...), index (b,)), such as a data loader's; they
    need not fit into memory together.
    """
    queries = queries.detach().flatten(1).float()
    closest = torch.full((len(queries),), torch.inf)
    indices = torch.full((len(queries),), -1)
    for batch, index in references:
        rows = batch.detach().flatten(1).to(queries)
        # cdist's faster way, by matrix products, loses small distances between large vectors
        distances, positions = torch.cdist(queries, rows, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        closer = distances.cpu() < closest
        closest[closer] = distances.cpu()[closer]
        indices[closer] = index.cpu()[positions.cpu()[closer]]
    return indices
