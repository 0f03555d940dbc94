"""What is used of Lightning, and of torch's DDP, that they do not document, each with its reason.

``tests/test_lightning_internals.py`` fails when a new version lacks one of them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from pytorch_lightning import LightningModule, Trainer

# Lightning ends a fit that KeyboardInterrupt has ended by sys.exit with this status. We leave with 130, as shells do.
INTERRUPT_STATUS = 1

# The command line leaves in a checkpoint which function is to make its model: for load_from_checkpoint, in whose
# keyword arguments this entry says that the class itself does. The parser is not needed then.
OWN_CLASS: dict[str, Any] = {"_instantiator": None}


def exclude_from_ddp(module: LightningModule, names: list[str]) -> None:
    """Keeps parameters out of DDP's averages: it has none for sparse gradients."""
    module._ddp_params_and_buffers_to_ignore = names  # type: ignore[assignment]


def launch(trainer: Trainer, function: Callable[[], None]) -> None:
    """Starts the other processes on this node, if nobody else does, and calls the function in each of them.

    ``trainer.fit`` does the same, and finds them started: by then a signal can be answered.
    """
    trainer.strategy.launcher.launch(function)  # type: ignore[union-attr]


def child_processes(trainer: Trainer) -> Sequence[subprocess.Popen[bytes]]:
    """The processes that Lightning has started from this one, which it ends only in some cases."""
    return getattr(trainer.strategy.launcher, "procs", ())


def leave_signals_to_us(trainer: Trainer) -> None:
    """Turns off Lightning's answer to signals, for several processes.

    It asks the first process for SIGTERM in every step; Checkpoints asks all of them, for every signal, and seldom. Its
    handler also sends a message to the other processes in the middle of whatever they send each other.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def begin_epoch_anew(trainer: Trainer) -> None:
    """Corrects Lightning where an epoch begins: with ``max_steps`` it takes every resumed run for one in mid-epoch."""
    loop = trainer.fit_loop.epoch_loop
    if loop.batch_progress.current.ready == 0:
        loop.restarting = False


def epochs_done(checkpoint: dict[str, Any]) -> int:
    """How many epochs the run of a checkpoint has finished; its ``epoch`` counts differently in mid-epoch."""
    return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def finish_epoch(checkpoint: dict[str, Any]) -> None:
    """Has the loops' state, at an epoch's end, say plainly that the epoch is over, or that it has been cut off.

    As Lightning leaves it there, a resumed run with ``max_steps`` trains one batch too many, and an epoch that
    ``max_steps`` or a timer has cut off is never finished.
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
