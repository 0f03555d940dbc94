import math

import numpy as np
import pytest
import torch

from glo_lightning.errors import InputError
from glo_lightning.optimizers import AdamW, RowSGD, WhitenedRows, find_optimizer, rate_factor

SGD, WHITENED = find_optimizer("sgd"), find_optimizer("whitened")


def test_a_constant_schedule_leaves_the_rates():
    assert [rate_factor("constant", step, steps) for step, steps in ((0, 9), (5, 9), (99, math.inf))] == [1, 1, 1]


def test_a_cosine_goes_from_one_to_zero_and_stays_there():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    for step in range(13):
        assert rate_factor("cosine", step, 12) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        torchs.step()
    assert rate_factor("cosine", 0, 12) == 1
    assert rate_factor("cosine", 12, 12) == rate_factor("cosine", 40, 12) == pytest.approx(0, abs=1e-12)


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


def test_sgd_moves_each_row_by_its_own_gradient_and_the_weights_as_torchs(table):
    weights = [torch.nn.Parameter(torch.arange(6.0)) for _ in range(2)]
    groups = [{"params": [weights[0]], "lr": 0.5, "weight_decay": 0.1}, {"params": [table.weight], "lr": 0.25}]
    ours, torchs = SGD(groups), torch.optim.SGD([weights[1]], lr=0.5, weight_decay=0.1)
    for weight in weights:
        weight.grad = torch.linspace(-1, 1, 6)
    rows, gradient = torch.tensor([70, 3, 41]), torch.randn(3, 5)
    before = table.weight.detach().clone()
    (table(rows) * gradient).sum().backward()
    ours.step()
    torchs.step()
    assert torch.equal(*weights)
    expected = before.clone()
    for row, change in zip(rows.tolist(), gradient, strict=True):
        expected[row] -= 0.25 * change
    torch.testing.assert_close(table.weight.detach(), expected)
    assert sorted(table.weight.grad._indices()[0].tolist()) == [3, 41, 70]  # whose rows are to be projected


@pytest.mark.parametrize("rule", ["sgd", "whitened"])
def test_adamw_moves_the_weights_as_torchs_and_leaves_the_rows_to_their_rule(rule):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(3, 2) for _ in range(2)]
    tables = [torch.nn.Embedding(9, 3, sparse=True) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    tables[1].load_state_dict(tables[0].state_dict())
    groups = [{"params": list(layers[0].parameters()), "lr": 0.01, "weight_decay": 0.1}]
    ours = find_optimizer(rule, "adamw")([*groups, {"params": [tables[0].weight], "lr": 0.5}])
    torchs = torch.optim.AdamW(layers[1].parameters(), 0.01, (0.9, 0.99), weight_decay=0.1)
    rows_alone = find_optimizer(rule)([tables[1].weight], lr=0.5)
    for step in range(4):
        for layer, table in zip(layers, tables, strict=True):
            layer.zero_grad()
            table.zero_grad()
            layer(table(torch.tensor([step, 7]))).square().sum().backward()
        for optimizer in (ours, torchs, rows_alone):
            optimizer.step()
    torch.testing.assert_close(layers[0].state_dict(), layers[1].state_dict())
    torch.testing.assert_close(tables[0].weight, tables[1].weight)
    assert (tables[0].weight.grad._values() != 0).all()  # whose rows are to be projected


def test_the_loss_of_a_closure_is_handed_on(table):
    optimizer = SGD(table.parameters(), lr=1.0)

    def closure():
        optimizer.zero_grad()
        loss = table(torch.tensor([2])).sum()
        loss.backward()
        return loss

    expected = float(table.weight.detach()[2].sum())
    assert float(optimizer.step(closure).detach()) == pytest.approx(expected)
    assert float(table.weight.detach()[2].sum()) == pytest.approx(expected - 5, abs=1e-5)


def test_whitened_steps_are_equally_long_in_every_direction(table):
    rows = torch.randperm(80)[:64]
    gradient = torch.randn(64, 5) * torch.logspace(-1, 0, 5) @ torch.linalg.qr(torch.randn(5, 5)).Q
    moved = move(WHITENED(table.parameters(), lr=0.3), table, rows, gradient)
    torch.testing.assert_close(moved[rows].T @ moved[rows] / 64, 0.3**2 / 5 * torch.eye(5), atol=1e-5, rtol=0)
    left = torch.ones(80, dtype=torch.bool)
    left[rows] = False
    assert not moved[left].any()


def test_a_whitened_step_is_the_inverse_root_of_the_gradients_covariance(table):
    rows = torch.randperm(80)[:64]
    gradient = torch.randn(64, 5) * torch.logspace(-1, 0, 5) @ torch.linalg.qr(torch.randn(5, 5)).Q
    moved = move(WHITENED(table.parameters(), lr=0.3), table, rows, gradient)
    exact = gradient.double().numpy()
    left, _, right = np.linalg.svd(exact, full_matrices=False)  # g (g^T g)^(-1/2) is what is left without the scales
    np.testing.assert_allclose(moved[rows], -0.3 * (left @ right) * (64 / 5) ** 0.5, atol=1e-4)


def test_whitening_follows_the_gradients(table):
    quick = type("Quick", (WHITENED,), {"decay": 0.9})
    optimizer = quick(table.parameters(), lr=1.0)
    for scales in (torch.logspace(0, -2, 5), torch.logspace(-2, 0, 5)):
        for _ in range(100):
            moved = move(optimizer, table, torch.randperm(80)[:64], torch.randn(64, 5) * scales)
        root_mean_square = moved.square().sum(dim=0).div(64).sqrt()
        torch.testing.assert_close(root_mean_square, torch.full((5,), 5**-0.5), rtol=0.35, atol=0)


def test_a_batch_that_is_not_finite_or_all_zeros_spoils_no_other_row(table):
    optimizer = WHITENED(table.parameters(), lr=1.0)
    for value in (0.0, math.nan, 1.0):
        move(optimizer, table, torch.arange(8), torch.full((8, 5), value))
    moved = move(optimizer, table, torch.arange(8, 72), torch.randn(64, 5))
    assert moved[8:72].isfinite().all()
    assert moved[8:72].any(dim=1).all()


def test_whitened_steps_of_a_bfloat16_table_are_those_of_a_float32_one(table):
    half = torch.nn.Embedding(80, 5, sparse=True, dtype=torch.bfloat16, _weight=torch.zeros(80, 5).bfloat16())
    table.weight.data.zero_()
    gradient = torch.randn(80, 5).bfloat16()
    expected = move(WHITENED(table.parameters(), lr=1.0), table, torch.arange(80), gradient.float())
    moved = move(WHITENED(half.parameters(), lr=1.0), half, torch.arange(80), gradient)
    torch.testing.assert_close(moved.float(), expected, rtol=0.05, atol=0.02)


# --------------------------------------------------------------------------------------------------------- by name


class Signs(RowSGD):
    """A rule of one's own."""

    def step_rows(self, table, gradient, rate):
        table[gradient._indices()[0]] -= rate * gradient._values().sign()


def test_optimizers_by_name():
    for name, rule in (("sgd", RowSGD), ("whitened", WhitenedRows), ("test_optimizers.Signs", Signs)):
        for generator, kind in (("sgd", torch.optim.SGD), ("adamw", AdamW)):
            found = find_optimizer(name, generator)
            assert issubclass(found, rule)
            assert issubclass(found, kind)
    for unknown in ("adam", "adamw", "torch.optim.Adam", "os.abort", ""):
        with pytest.raises(InputError, match=f"latent_optimizer {unknown}: give sgd, whitened or the path of a sub"):
            find_optimizer(unknown)
    with pytest.raises(InputError, match="generator_optimizer adam: give one of sgd, adamw"):
        find_optimizer("sgd", "adam")


def test_a_rule_of_ones_own_moves_the_rows(table):
    moved = move(
        find_optimizer("test_optimizers.Signs")(table.parameters(), lr=0.5),
        table,
        torch.tensor([4, 9]),
        torch.tensor([[-3.0] * 5, [0.1] * 5]),
    )
    expected = torch.zeros(80, 5)
    expected[4], expected[9] = 0.5, -0.5
    torch.testing.assert_close(moved, expected)
