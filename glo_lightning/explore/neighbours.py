"""Nearest neighbours, by code and by pixels."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.images import to_uint8
from glo_lightning.progress import Progress

BATCH = 65_536  # codes that are compared at once


def nearest_codes(run: TrainedRun, codes: Tensor, number: int = 1) -> Tensor:
    """Find the rows of the training images whose codes are nearest to codes (M, D): (M, number), the nearest first.

    They are nearest by the cosine of the codes' offsets from the mean code. By Euclidean distance a few codes near the
    mean are neighbours of very many others ("hubs", Radovanovic et al. 2010), and centring removes them (Suzuki et al.
    2013). There are fewer where the run has fewer images.
    """
    mean = run.trained_codes.mean(0)
    queries = F.normalize(codes.to(mean) - mean, dim=1)
    cosines, rows = queries.new_empty(len(queries), 0), run.rows.new_empty(len(queries), 0)
    for batch, batch_rows in zip(run.trained_codes.split(BATCH), run.rows.split(BATCH), strict=True):
        cosines = torch.cat([cosines, queries @ F.normalize(batch - mean, dim=1).T], dim=1)
        rows = torch.cat([rows, batch_rows.expand(len(queries), -1)], dim=1)
        cosines, places = cosines.topk(min(number, cosines.shape[1]), dim=1)
        rows = rows.gather(1, places.cpu())
    return rows


def nearest_by_pixels(run: TrainedRun, images: Tensor) -> Tensor:
    """Find the rows (M,) of the training images nearest to images (M, C, H, W) in [-1, 1]."""
    batches = Progress(run.data.sequential_dataloader(), desc="comparing pixels", hidden=True)
    return nearest(to_uint8(images), batches)


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
