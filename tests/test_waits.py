"""A step waits for no device: what reads a tensor's value, or has to know how many there are, is counted on the CPU."""

import pytest
import torch
from pytorch_lightning import Callback
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "coalesce", "unique")


class Count(TorchDispatchMode):
    """Names of the operations that would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        name = function.name().split("::")[1].split(".")[0]
        indices = arguments[1] if name in ("index", "index_put", "index_put_") else ()
        by_mask = any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)
        if by_mask or any(name.startswith(word) or name.startswith("_" + word) for word in WAITING):
            self.names.append(name)
        return function(*arguments, **(kwargs or {}))


class Waits(Callback):
    """What waited in each step, from the start of its batch to that of the next one."""

    steps: list[tuple[int, list[str]]]

    def on_train_start(self, trainer, pl_module):
        Waits.steps, self.count = [], Count()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step and batch_idx:
            self.count.__exit__(None, None, None)
            Waits.steps.append((trainer.global_step, self.count.names))
        self.count = Count()
        self.count.__enter__()

    def on_train_epoch_end(self, trainer, pl_module):
        self.count.__exit__(None, None, None)


FLAGS = (
    "--data.num_samples=96",
    "--data.image_size=32",
    "--data.batch_size=8",
    "--model.width=4",
    "--model.latent_dim=6",
)
FLAGS += ("--accelerator=cpu", "--max_epochs=1", "--log_every_n_steps=5", "--trainer.callbacks+=test_waits.Waits")


@pytest.mark.parametrize(
    "flags",
    [(), ("--enable_progress_bar=false",), ("--accumulate_grad_batches=2",), ("--model.constraint=sphere",)],
    ids=" ".join,
)
def test_no_step_waits_between_two_that_are_logged(run, tmp_path, flags):
    assert run(*FLAGS, *flags, "--output", tmp_path / "run") == (0, "")
    assert len(Waits.steps) > 4
    logged = {step: names for step, names in Waits.steps if step % 5 == 0}
    others = {step: names for step, names in Waits.steps if step % 5}
    assert any(logged.values())  # the loss is written
    assert not any(others.values()), others


def test_the_counter_counts():
    with Count() as count:
        x = torch.arange(4.0)
        float(x.sum())
        x[x > 1]
        x.nonzero()
    assert {"_local_scalar_dense", "index", "nonzero"} <= set(count.names)
