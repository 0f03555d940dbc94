"""A step waits for no device: what reads a tensor's value, or has to know how many there are, is counted on the CPU."""

import pytest
import torch
from benchmarking.waits import Count, Waits


class Kept(Waits):
    """Keeps the one that the command line makes."""

    made: Waits

    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        Kept.made = self


FLAGS = (
    "--data.num_samples=96",
    "--data.image_size=32",
    "--data.batch_size=8",
    "--model.generator.width=4",
    "--model.latent_dim=6",
)
FLAGS += ("--accelerator=cpu", "--max_epochs=1", "--log_every_n_steps=5", "--trainer.callbacks+=test_waits.Kept")


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--enable_progress_bar=false", "--accumulate_grad_batches=2", "--model.constraint=sphere"),
        ("--data.holdout=8", "--max_epochs=2"),  # val/psnr is in the bar
    ],
    ids=" ".join,
)
def test_no_step_waits_between_two_that_are_logged(run, tmp_path, flags):
    """But for the first batch, whose values are checked."""
    assert run(*FLAGS, *flags, "--output", tmp_path / "run") == (0, "")
    steps = Kept.made.steps[1:]
    assert len(steps) > 4
    assert any(names for step, names in steps if step % 5 == 0)  # the loss is written
    assert not [(step, names) for step, names in steps if step % 5 and names]


def test_the_counter_counts():
    with Count() as count:
        x = torch.arange(4.0)
        float(x.sum())
        x[x > 1]
        x.nonzero()
    assert {"_local_scalar_dense", "index", "nonzero"} <= set(count.names)
