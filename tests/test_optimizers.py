import math

import pytest
import torch

from glo_lightning.errors import InputError
from glo_lightning.optimizers import RowSGD, WhitenedRows, find_optimizer, rate_factor


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


def test_rows_and_weights_step_as_torchs_sgd(table):
    dense, twin = torch.nn.Linear(5, 2), torch.nn.Embedding(80, 5, _weight=table.weight.detach().clone())
    other = torch.nn.Linear(5, 2)
    other.load_state_dict(dense.state_dict())
    groups = [[{"params": layer.parameters(), "lr": 0.1, "weight_decay": 0.3}, {"params": rows.parameters(), "lr": 2.0}]
              for layer, rows in ((dense, table), (other, twin))]  # fmt: skip
    ours, torchs = RowSGD(groups[0]), torch.optim.SGD(groups[1])
    for rows in ([3, 1, 7], [1, 79], [0]):
        for optimizer, layer, embedding in ((ours, dense, table), (torchs, other, twin)):
            optimizer.zero_grad()
            layer(embedding(torch.tensor(rows))).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(table.weight, twin.weight)
    torch.testing.assert_close(dense.weight, other.weight)


def test_rates_are_a_function_of_the_step():
    assert [rate_factor("constant", step, math.inf) for step in (0, 9)] == [1, 1]
    assert [rate_factor("cosine", step, 8) for step in (0, 4, 8, 9)] == pytest.approx([1, 0.5, 0, 0])
    assert rate_factor("cosine", 2, 8) == pytest.approx(math.cos(math.pi / 8) ** 2)


def test_a_rule_for_the_rows_is_a_row_sgd():
    assert find_optimizer("glo_lightning.optimizers.WhitenedRows") is WhitenedRows
    for name in ("adam", "torch.optim.Adam", "os.abort"):
        with pytest.raises(InputError, match="latent_optimizer"):
            find_optimizer(name)
