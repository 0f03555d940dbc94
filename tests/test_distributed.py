import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from glo_lightning.distributed import gather_rows


class TwoRanks:
    """Two threads in the place of processes: torch's collectives, as far as they are used; they want equal shapes."""

    def __init__(self, monkeypatch):
        self.barrier, self.given = threading.Barrier(2, timeout=20), {}
        fakes = {"is_initialized": lambda: True, "get_world_size": lambda: 2}
        for name, fake in (fakes | {"all_gather": self.all_gather}).items():
            monkeypatch.setattr(torch.distributed, name, fake)

    def exchange(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.given[threading.current_thread().name] = tensor.clone()
        self.barrier.wait()
        parts = [self.given[name] for name in sorted(self.given)]
        self.barrier.wait()
        assert parts[0].shape == parts[1].shape
        return parts

    def all_gather(self, outputs, tensor):
        assert tensor.is_contiguous()
        for output, part in zip(outputs, self.exchange(tensor), strict=True):
            output.copy_(part)

    def each(self, work, arguments):
        def named(rank_and_argument):
            threading.current_thread().name = str(rank_and_argument[0])
            return work(rank_and_argument[1])

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(named, enumerate(arguments)))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("rows", [([7, 2, 11], [19, 4]), ([3], [1, 0, 6, 12])])
def test_each_row_keeps_its_own_gradient_when_ranks_have_unlike_numbers_of_rows(monkeypatch, rows, asked):
    parts = None if asked else list(map(len, rows))
    gradients, expected = [], torch.zeros(20, 3)
    for some in rows:
        values, table = torch.randn(len(some), 3), torch.nn.Embedding(20, 3, sparse=True)
        (table(torch.tensor(some)) * values).sum().backward()
        gradients.append(table.weight.grad.coalesce())
        for row, value in zip(some, values, strict=True):
            expected[row] = value
    for gathered in TwoRanks(monkeypatch).each(lambda gradient: gather_rows(gradient, parts), gradients):
        assert torch.equal(gathered.to_dense(), expected)
        assert sorted(gathered._indices()[0].tolist()) == sorted([*rows[0], *rows[1]])  # each once, no padding
