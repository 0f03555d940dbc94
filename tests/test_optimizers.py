import copy
import math

import numpy as np
import pytest
import torch

from glo_lightning.errors import InputError
from glo_lightning.optimizers import RowSGD, WhitenedRows


@pytest.fixture
def table():
    torch.manual_seed(0)
    return torch.nn.Embedding(80, 5, sparse=True)


def move(optimizer, table, rows, gradient, lr):
    """How far one step with that gradient moves all rows of the table."""
    before = table.weight.detach().clone()
    table.zero_grad()
    (table(rows) * gradient).sum().backward()
    with torch.no_grad():
        optimizer.update_rows(table.weight, table.weight.grad, lr)
    return table.weight.detach() - before


def test_sgd_moves_each_row_of_the_batch_by_its_own_gradient_and_no_other(table):
    rows, gradient = torch.tensor([70, 3, 41]), torch.randn(3, 5)
    moved, expected = move(RowSGD(5), table, rows, gradient, 0.25), torch.zeros(80, 5)
    expected[rows] = -0.25 * gradient
    torch.testing.assert_close(moved, expected)


def test_a_whitened_step_is_the_inverse_root_of_the_gradients_covariance(table):
    rows = torch.randperm(80)[:64]
    gradient = torch.randn(64, 5) * torch.logspace(-1, 0, 5) @ torch.linalg.qr(torch.randn(5, 5)).Q
    moved = move(WhitenedRows(5), table, rows, gradient, 0.3)
    exact = gradient.double().numpy()
    left, _, right = np.linalg.svd(exact, full_matrices=False)  # g (g^T g)^(-1/2) is what is left without the scales
    np.testing.assert_allclose(moved[rows], -0.3 * (left @ right) * (64 / 5) ** 0.5, atol=1e-4)
    assert moved.any(dim=1).sum() == 64  # no other row moves


def test_whitening_follows_the_gradients(table):
    optimizer = WhitenedRows(5, decay=0.9)
    for scales in (torch.logspace(0, -2, 5), torch.logspace(-2, 0, 5)):
        for _ in range(100):
            moved = move(optimizer, table, torch.randperm(80)[:64], torch.randn(64, 5) * scales, 1.0)
        root_mean_square = moved.square().sum(dim=0).div(64).sqrt()
        torch.testing.assert_close(root_mean_square, torch.full((5,), 5**-0.5), rtol=0.35, atol=0)


def test_a_batch_that_is_not_finite_or_all_zeros_spoils_no_other_row(table):
    optimizer = WhitenedRows(5)
    for value in (0.0, math.nan, 1.0):
        move(optimizer, table, torch.arange(8), torch.full((8, 5), value), 1.0)
    moved = move(optimizer, table, torch.arange(8, 72), torch.randn(64, 5), 1.0)
    assert moved[8:72].isfinite().all()
    assert moved[8:72].any(dim=1).all()


def test_whitened_steps_of_a_bfloat16_table_are_those_of_a_float32_one(table):
    half = torch.nn.Embedding(80, 5, sparse=True, dtype=torch.bfloat16, _weight=torch.zeros(80, 5).bfloat16())
    table.weight.data.zero_()
    gradient = torch.randn(80, 5).bfloat16()
    expected = move(WhitenedRows(5), table, torch.arange(80), gradient.float(), 1.0)
    moved = move(WhitenedRows(5).bfloat16(), half, torch.arange(80), gradient, 1.0)
    torch.testing.assert_close(moved.float(), expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("key", ["decay", "floor"])
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_wrong_arguments_are_named(key, value):
    with pytest.raises(InputError) as error:
        WhitenedRows(5, **{key: value})
    assert error.value.key == key


def test_whitened_steps_continue_from_their_state(table):
    batches = [(torch.randperm(80)[:16], torch.randn(16, 5)) for _ in range(26)]
    optimizers = [WhitenedRows(5), WhitenedRows(5)]
    for batch in batches[:13]:
        move(optimizers[0], table, *batch, 0.1)
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    tables = [table, copy.deepcopy(table)]
    for batch in batches[13:]:  # past 20, where the matrix is computed again
        moved = [move(*pair, *batch, 0.1) for pair in zip(optimizers, tables, strict=True)]
        assert torch.equal(*moved)
