"""The undocumented parts of Lightning and of torch's DDP that this package uses, each with its reason.

``tests/test_lightning_internals.py`` fails if a new version lacks one of them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from lightning_fabric.utilities.logger import _flatten_dict
from pytorch_lightning import LightningModule, Trainer

flatten_dict = _flatten_dict  # {"a": {"b": 1}} becomes {"a/b": 1}, as Lightning's own loggers show hyperparameters

# After KeyboardInterrupt, Lightning calls sys.exit with this status. We exit with 130, as shells do.
INTERRUPT_STATUS = 1

# LightningCLI stores in a checkpoint the function that creates the model. As keyword arguments of load_from_checkpoint,
# these have the class create it instead: a checkpoint may be a stranger's, and no parser is imported.
OWN_CLASS: dict[str, Any] = {"_instantiator": None}


def exclude_from_ddp(module: LightningModule, names: list[str]) -> None:
    """Excludes parameters from DDP, which cannot average sparse gradients."""
    module._ddp_params_and_buffers_to_ignore = names  # type: ignore[assignment]


def loss_scale(trainer: Trainer) -> float:
    """The factor on the loss, and so on gradients, in half precision (``16-mixed``), else 1.

    It falls when a step is skipped. Lightning unscales the gradients of the optimizer's parameters alone.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else scaler.get_scale()


def launch(trainer: Trainer, function: Callable[[], None]) -> None:
    """Starts the other processes on this node, unless torchrun or srun does, and calls the function in this process.

    ``trainer.fit`` would do it, too, but later: by then the processes must have connected. It finds them started.
    """
    trainer.strategy.launcher.launch(function)  # type: ignore[union-attr]


def child_processes(trainer: Trainer) -> Sequence[subprocess.Popen[bytes]]:
    """The processes that Lightning has started from this one. It does not always end them."""
    return getattr(trainer.strategy.launcher, "procs", ())


def leave_signals_to_us(trainer: Trainer) -> None:
    """Turns off Lightning's signal handling, for several processes.

    Lightning broadcasts in every step whether rank 0 had SIGTERM; Checkpoints asks all ranks, for every signal, and
    rarely. Lightning's handler also broadcasts at once, which may break into another collective.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def clear_restarting(trainer: Trainer) -> None:
    """Corrects Lightning at the start of an epoch: with ``max_steps`` it takes every resumed run to be in mid-epoch."""
    loop = trainer.fit_loop.epoch_loop
    if loop.batch_progress.current.ready == 0:
        loop.restarting = False


def epochs_done(checkpoint: dict[str, Any]) -> int:
    """The number of epochs that the run of a checkpoint has finished."""
    return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def finish_epoch(checkpoint: dict[str, Any]) -> None:
    """Corrects the state of the loops at an epoch's end: the epoch is either finished, or was cut off.

    Without it, a resumed run with ``max_steps`` trains one batch too many, and an epoch that was cut off by
    ``max_steps`` or a timer is never finished.
    """
    loop = checkpoint["loops"]["fit_loop"]
    epoch, batch = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    if epoch["current"]["processed"] < epoch["current"]["started"]:
        return  # in mid-epoch
    over = batch["is_last_batch"] or batch["current"]["ready"] == 0
    for count in (epoch["current"], epoch["total"]):
        count["processed"] = count["completed"] = count["started"] - (not over)
    if over:
        batch["current"] = dict.fromkeys(batch["current"], 0)
        batch["is_last_batch"] = False
        loop["state_dict"].pop("combined_loader", None)
