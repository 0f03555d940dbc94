"""The undocumented parts of Lightning and DDP that the package uses: a version that lacks one fails here."""

import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from glo_lightning import lightning_internals as internals

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


class Small(LightningModule):
    """A layer, and a table that DDP must ignore."""

    def __init__(self):
        super().__init__()
        self.save_hyperparameters()
        self.layer, self.table = torch.nn.Linear(1, 1), torch.nn.Embedding(2, 1, sparse=True)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def forward(self, batch):
        return self.layer(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.layer.parameters(), 0.1)


def make_trainer(tmp_path, *callbacks, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "barebones": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "default_root_dir": tmp_path}
    return Trainer(callbacks=list(callbacks), **quiet, **options)


def fit(trainer, **options):
    trainer.fit(Small(), DataLoader(torch.ones(4, 1), batch_size=1), **options)


class Save(Callback):
    """Saves a checkpoint after the third of four batches, and at the epoch's end."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 2:
            trainer.save_checkpoint(trainer.default_root_dir + "/middle.ckpt")

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(trainer.default_root_dir + "/end.ckpt")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The folder of a run of two epochs in four steps each."""
    folder = tmp_path_factory.mktemp("internals")
    fit(make_trainer(folder, Save(), max_epochs=2, log_every_n_steps=1))
    return folder


def test_the_loops_of_a_checkpoint(checkpoints):
    """Lightning does not count an epoch as finished at its end yet; ``finish_epoch`` corrects that."""
    middle, end = (torch.load(checkpoints / f"{name}.ckpt", weights_only=True) for name in ("middle", "end"))
    assert internals.epochs_done(middle) == 1
    untouched = torch.load(checkpoints / "middle.ckpt", weights_only=True)
    internals.finish_epoch(middle)
    assert middle["loops"] == untouched["loops"]
    internals.finish_epoch(end)
    assert internals.epochs_done(end) == 2
    loop = end["loops"]["fit_loop"]
    assert set(loop["epoch_loop.batch_progress"]["current"].values()) == {0}
    assert {"current", "total"} <= loop["epoch_progress"].keys()
    assert "state_dict" in loop


def test_with_max_steps_lightning_mistakes_an_epochs_end_for_its_middle(checkpoints, tmp_path):
    seen = []

    class See(Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append(trainer.fit_loop.epoch_loop.restarting)
            internals.clear_restarting(trainer)
            seen.append(trainer.fit_loop.epoch_loop.restarting)

    end = torch.load(checkpoints / "end.ckpt", weights_only=True)
    internals.finish_epoch(end)
    torch.save(end, tmp_path / "end.ckpt")
    trainer = make_trainer(tmp_path, See(), max_epochs=-1, max_steps=12, log_every_n_steps=1)
    fit(trainer, ckpt_path=tmp_path / "end.ckpt", weights_only=True)
    assert seen == [True, False]
    assert trainer.global_step == 12


def test_lightning_answers_a_keyboard_interrupt_by_an_exit_status(tmp_path):
    class Interrupt(Callback):
        def on_train_start(self, trainer, pl_module):
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        fit(make_trainer(tmp_path, Interrupt(), max_epochs=1))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert stop.value.code == internals.INTERRUPT_STATUS


def test_lightnings_answer_to_signals_can_be_turned_off(tmp_path):
    trainer = make_trainer(tmp_path)
    assert callable(trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor)
    assert callable(trainer._signal_connector.register_signal_handlers)
    internals.leave_signals_to_us(trainer)
    before = signal.getsignal(signal.SIGTERM)
    trainer._signal_connector.register_signal_handlers()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_launcher_starts_processes_once_and_knows_them(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")  # to be put back
        monkeypatch.delenv(name)
    started, calls = [], []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command) or SimpleNamespace(pid=1))
    monkeypatch.setattr(
        "pytorch_lightning.strategies.launchers.subprocess_script._launch_process_observer", lambda processes: None
    )
    launcher = _SubprocessScriptLauncher(LightningEnvironment(), num_processes=3, num_nodes=1)
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    for _ in range(2):  # by us, and by trainer.fit
        internals.launch(trainer, lambda: calls.append(1))
    assert (len(calls), len(started)) == (2, 2)
    assert sys.executable in started[0]
    assert len(internals.child_processes(trainer)) == 2


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_ddp_leaves_out_what_it_is_told_to(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        module = Small()
        internals.exclude_from_ddp(module, ["table.weight"])
        shared = DistributedDataParallel(module)
        assert "table.weight" in shared.parameters_to_ignore
        assert len(shared._build_params_for_reducer()[0]) == 2
    finally:
        torch.distributed.destroy_process_group()


def test_a_checkpoints_instantiator_is_overruled(checkpoints, tmp_path):
    checkpoint = torch.load(checkpoints / "end.ckpt", weights_only=True)
    checkpoint["hyper_parameters"] = {"_instantiator": "os.abort"}
    checkpoint.setdefault("hparams_name", "kwargs")
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="instantiator"):
        Small.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    loaded = Small.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True, **internals.OWN_CLASS)
    assert torch.equal(loaded.layer.weight, checkpoint["state_dict"]["layer.weight"])
