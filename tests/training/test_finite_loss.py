import pytest
import torch
from conftest import TINY, load

RUN = (*TINY, "--data.num_samples=40", "--data.batch_size=4", "--max_epochs=2", "--log_every_n_steps=1")


class NaNInCall5(torch.nn.L1Loss):
    """A loss that is not a number in the fifth step."""

    calls = 0

    def forward(self, fakes, images):
        type(self).calls += torch.is_grad_enabled()  # GLO tries it once, without gradients
        return super().forward(fakes, images) * (float("nan") if self.calls == 5 else 1)


@pytest.fixture
def poisoned(monkeypatch):
    monkeypatch.setattr(NaNInCall5, "calls", 0)
    return (*RUN, "--model.loss=test_finite_loss.NaNInCall5", "--max_epochs=1")


def test_a_loss_that_is_not_finite_stops_the_run_before_the_next_checkpoint(run, poisoned, tmp_path):
    flags = ("--log_every_n_steps=4", "--checkpoint.every_n_steps=3")
    status, line = run(*poisoned, *flags, "--output", tmp_path / "run")
    assert status == 1
    assert line.startswith("loss nan in step 4 (learning rates ")  # counted from 0
    keys = line.split(" keys ")[1].split(")")[0].split()
    trained = load(tmp_path / "run")
    assert trained["global_step"] == 3
    from glo_lightning.data import LSUNDataModule

    data = LSUNDataModule(num_samples=40, image_size=32, batch_size=4)
    rows = list(data.train_dataloader().sampler)[4]
    assert keys == [data.source.key(row).decode() for row in rows]


def test_a_skipped_step_moves_nothing(run, poisoned, tmp_path, monkeypatch):
    states = {}
    monkeypatch.setattr(
        "glo_lightning.training.callbacks.ReconstructionGrid.on_train_batch_end",
        lambda self, trainer, module, *_: states.update(
            {trainer.global_step: {key: value.clone() for key, value in module.state_dict().items()}}
        ),
    )
    assert run(*poisoned, "--on_nonfinite_loss=skip", "--output", tmp_path / "run")[0] == 0

    def moved(step):
        return {key for key, value in states[step].items() if not torch.equal(value, states[step - 1][key])}

    assert moved(5) == set()
    assert {"latents.weight", "generator.layers.1.running_mean"} <= moved(4) & moved(6)
    assert load(tmp_path / "run")["global_step"] == 10
    assert torch.tensor(load(tmp_path / "run")["epoch_loss"]).isfinite().all()
