"""Nearest codes: their definition, and that none of them is near to all."""

from types import SimpleNamespace

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from glo_lightning.explore.neighbours import nearest_codes


@pytest.fixture
def run():
    """300 codes of 30 dimensions around a mean far from zero, whose rows are every other one."""
    codes = 3 + torch.randn(300, 30, generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(trained_codes=codes, rows=torch.arange(0, 600, 2))


@pytest.mark.parametrize("batch", [7, 1000])
def test_codes_are_nearest_by_the_cosine_of_their_offsets_from_the_mean(run, batch, monkeypatch):
    monkeypatch.setattr("glo_lightning.explore.neighbours.BATCH", batch)
    centred = (run.trained_codes - run.trained_codes.mean(0)).numpy()
    _, expected = NearestNeighbors(n_neighbors=9, metric="cosine").fit(centred).kneighbors()
    found = nearest_codes(run, run.trained_codes, 10)
    assert (found[:, 0] == run.rows).all()
    assert (found[:, 1:] == 2 * torch.from_numpy(expected)).all()
    assert nearest_codes(run, run.trained_codes[:2], 500).shape == (2, 300)


def test_no_code_is_a_neighbour_of_very_many_others(run):
    """The largest number of lists that a code stands in, beside that of lists by Euclidean distance."""
    by_distance = NearestNeighbors(n_neighbors=8).fit(run.trained_codes).kneighbors()[1]
    by_cosine = nearest_codes(run, run.trained_codes, 9)[:, 1:] // 2
    most = [int(torch.as_tensor(lists).flatten().bincount().max()) for lists in (by_distance, by_cosine)]
    assert most[1] < most[0] / 2
