"""The undocumented parts of Lightning and DDP that the package uses: a version that lacks one fails here."""

import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies.launchers import subprocess_script
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

    def configure_optimizers(self):
        return torch.optim.SGD(self.layer.parameters(), 0.1)


def fit(folder, hook, action, ckpt_path=None, **limits):
    """Fits four batches an epoch, with the action as a callback's hook."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    quiet |= {"enable_model_summary": False, "log_every_n_steps": 1, "default_root_dir": folder}
    trainer = Trainer(callbacks=[LambdaCallback(**{hook: action})], **quiet, **limits)
    trainer.fit(Small(), DataLoader(torch.ones(4, 1), batch_size=1), ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Paths of checkpoints after the third of four batches, and at the epoch's end, of the second epoch."""
    folder = tmp_path_factory.mktemp("internals")
    middle, end = folder / "middle.ckpt", folder / "end.ckpt"
    fit(folder, "on_train_batch_end", lambda t, m, o, b, i: t.save_checkpoint(middle) if i == 2 else None, max_epochs=2)
    fit(folder, "on_train_epoch_end", lambda trainer, module: trainer.save_checkpoint(end), max_epochs=2)
    return middle, end


def test_the_loops_of_a_checkpoint(checkpoints):
    """Lightning does not count an epoch as finished at its end yet; ``finish_epoch`` corrects that."""
    middle, untouched, end = (torch.load(path, weights_only=True) for path in (checkpoints[0], *checkpoints))
    assert internals.epochs_done(middle) == 1
    internals.finish_epoch(middle)
    assert middle["loops"] == untouched["loops"]
    internals.finish_epoch(end)
    assert internals.epochs_done(end) == 2
    assert set(end["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"].values()) == {0}


def test_with_max_steps_lightning_mistakes_an_epochs_end_for_its_middle(checkpoints, tmp_path):
    seen = []

    def look(trainer, module):
        seen.append(trainer.fit_loop.epoch_loop.restarting)
        internals.clear_restarting(trainer)
        seen.append(trainer.fit_loop.epoch_loop.restarting)

    end = torch.load(checkpoints[1], weights_only=True)
    internals.finish_epoch(end)
    torch.save(end, tmp_path / "end.ckpt")
    trainer = fit(tmp_path, "on_train_start", look, tmp_path / "end.ckpt", max_epochs=-1, max_steps=12)
    assert (seen, trainer.global_step) == ([True, False], 12)


def test_lightning_exits_after_a_keyboard_interrupt(tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        fit(tmp_path, "on_train_start", interrupt, max_epochs=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert end.value.code == internals.INTERRUPT_STATUS


def test_lightnings_signal_handling_can_be_turned_off():
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert callable(trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor)
    assert callable(trainer._signal_connector.register_signal_handlers)
    internals.leave_signals_to_us(trainer)
    before = signal.getsignal(signal.SIGTERM)
    trainer._signal_connector.register_signal_handlers()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_launcher_starts_processes_once_and_knows_them(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")  # to be restored after the test
        monkeypatch.delenv(name)
    started, calls = [], []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command) or SimpleNamespace(pid=1))
    monkeypatch.setattr(subprocess_script, "_launch_process_observer", lambda processes: None)
    launcher = subprocess_script._SubprocessScriptLauncher(LightningEnvironment(), num_processes=3, num_nodes=1)
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    for _ in range(2):  # by us, and by trainer.fit
        internals.launch(trainer, lambda: calls.append(1))
    assert (len(calls), len(started), len(internals.child_processes(trainer))) == (2, 2, 2)
    assert sys.executable in started[0]


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_ddp_ignores_what_it_is_told_to(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        module = Small()
        internals.exclude_from_ddp(module, ["table.weight"])
        assert "table.weight" in DistributedDataParallel(module).parameters_to_ignore
    finally:
        torch.distributed.destroy_process_group()


def test_a_checkpoints_instantiator_is_overruled(checkpoints, tmp_path):
    checkpoint = torch.load(checkpoints[1], weights_only=True)
    checkpoint["hyper_parameters"] = {"_instantiator": "os.abort"}
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="instantiator"):
        Small.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    loaded = Small.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True, **internals.OWN_CLASS)
    assert torch.equal(loaded.layer.weight, checkpoint["state_dict"]["layer.weight"])


def test_hyperparameters_by_path():
    assert internals.flatten_dict({"a": {"b": 1, "c": [2]}, "d": None}) == {"a/b": 1, "a/c": [2], "d": None}
