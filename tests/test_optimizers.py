import math

import pytest
import torch

from glo_lightning.optimizers import RowAdam, WhitenedRows


def test_row_adam_is_adam_on_each_row_by_itself():
    torch.manual_seed(0)
    table, dense = torch.nn.Embedding(5, 3, sparse=True), torch.nn.Linear(3, 1)
    alone = [row.clone().requires_grad_() for row in table.weight.detach()]
    adams = [torch.optim.Adam([row], lr=0.1) for row in alone]
    weight = dense.weight.detach().clone()
    optimizer = RowAdam([{"params": dense.parameters(), "lr": 0.5}, {"params": table.parameters(), "lr": 0.1}])
    for rows in ([0, 1], [3], [1, 0], [1, 3], [0]):
        optimizer.zero_grad()
        table(torch.tensor(rows)).pow(3).sum().backward()
        dense.weight.grad = torch.ones_like(weight)
        optimizer.step()
        weight -= 0.5
        for row in rows:
            adams[row].zero_grad()
            alone[row].pow(3).sum().backward()
            adams[row].step()
    torch.testing.assert_close(table.weight.detach(), torch.stack([row.detach() for row in alone]))
    torch.testing.assert_close(dense.weight.detach(), weight)


@pytest.fixture
def table():
    torch.manual_seed(0)
    return torch.nn.Embedding(80, 5, sparse=True)


def move(optimizer, table, rows, gradient):
    """How far one step with that gradient moves all rows of the table."""
    before = table.weight.detach().clone()
    optimizer.zero_grad()
    (table(rows) * gradient).sum().backward()
    optimizer.step()
    return table.weight.detach() - before


def test_whitened_steps_are_equally_long_in_every_direction(table):
    rows = torch.randperm(80)[:64]
    gradient = torch.randn(64, 5) * torch.logspace(-1, 0, 5) @ torch.linalg.qr(torch.randn(5, 5)).Q
    moved = move(WhitenedRows(table.parameters(), lr=0.3), table, rows, gradient)
    torch.testing.assert_close(moved[rows].T @ moved[rows] / 64, 0.3**2 / 5 * torch.eye(5), atol=1e-5, rtol=0)
    assert ((moved[rows] * gradient).sum(dim=1) < 0).all()  # each goes down its own image's loss
    left = torch.ones(80, dtype=torch.bool)
    left[rows] = False
    assert not moved[left].any()


def test_whitening_follows_the_gradients(table):
    optimizer = WhitenedRows(table.parameters(), lr=1.0, decay=0.9)
    for scales in (torch.logspace(0, -2, 5), torch.logspace(-2, 0, 5)):
        for _ in range(100):
            moved = move(optimizer, table, torch.randperm(80)[:64], torch.randn(64, 5) * scales)
        root_mean_square = moved.square().sum(dim=0).div(64).sqrt()
        torch.testing.assert_close(root_mean_square, torch.full((5,), 5**-0.5), rtol=0.35, atol=0)


def test_a_batch_that_is_not_finite_or_all_zeros_spoils_no_other_row(table):
    optimizer = WhitenedRows(table.parameters(), lr=1.0)
    for value in (0.0, math.nan, 1.0):
        move(optimizer, table, torch.arange(8), torch.full((8, 5), value))
    moved = move(optimizer, table, torch.arange(8, 72), torch.randn(64, 5))
    assert moved[8:72].isfinite().all()
    assert moved[8:72].any(dim=1).all()


def test_whitened_steps_of_a_bfloat16_table_are_those_of_a_float32_one(table):
    half = torch.nn.Embedding(80, 5, sparse=True, dtype=torch.bfloat16, _weight=torch.zeros(80, 5).bfloat16())
    table.weight.data.zero_()
    gradient = torch.randn(80, 5).bfloat16()
    expected = move(WhitenedRows(table.parameters(), lr=1.0), table, torch.arange(80), gradient.float())
    moved = move(WhitenedRows(half.parameters(), lr=1.0), half, torch.arange(80), gradient)
    torch.testing.assert_close(moved.float(), expected, rtol=0.05, atol=0.02)
