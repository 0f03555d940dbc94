"""How the processes of a run are started, by torchrun, srun or Lightning, and how children end."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from typing import Any, NamedTuple

from jsonargparse import Namespace
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning import Trainer, strategies
from pytorch_lightning.strategies import DDPStrategy

from glo_lightning.errors import InputError
from glo_lightning.lightning_internals import child_processes

log = logging.getLogger(__name__)

# By this variable a child of Lightning's launcher, which runs the same command, knows that it is one.
PARENT_VARIABLE = "GLO_LIGHTNING_PARENT"


class Launch(NamedTuple):
    """How this process was started, by the environment variables of its launcher.

    Attributes:
        by: ``torchrun``, ``srun`` or None; if None, Lightning starts the other processes of this node.
        is_first: whether its rank is 0: it writes the run folder.
        devices, nodes: processes on each node, and nodes; None if the flags decide.
    """

    by: str | None
    is_first: bool
    devices: int | None = None
    nodes: int | None = None

    @classmethod
    def detect(cls) -> Launch:
        """Reads the environment variables; no process group is needed."""
        variables = os.environ
        if TorchElasticEnvironment.detect():
            devices, processes = int(variables["LOCAL_WORLD_SIZE"]), int(variables["WORLD_SIZE"])
            return cls("torchrun", TorchElasticEnvironment().global_rank() == 0, devices, processes // devices)
        if SLURMEnvironment.detect():
            # not by SLURMEnvironment, which raises if the number of tasks per node is missing: see complete
            devices, nodes = (int(variables.get(f"SLURM_{name}", 1)) for name in ("NTASKS_PER_NODE", "NNODES"))
            return cls("srun", variables["SLURM_PROCID"] == "0", devices, nodes)
        lightning = LightningEnvironment()
        return cls(None, lightning.local_rank() == 0 == lightning.node_rank())

    def complete(self, devices: Any, nodes: int) -> tuple[Any, int]:
        """Returns devices and nodes for the Trainer, from the flags, else from the launcher, else one."""
        tasks = os.environ.get("SLURM_NTASKS")
        if self.by == "srun" and tasks != "1" and "SLURM_NTASKS_PER_NODE" not in os.environ:
            remedy = "does not say how many run on each node. Give srun --ntasks-per-node."
            raise InputError("SLURM_NTASKS", tasks, remedy)
        return (self.devices or 1) if devices == "auto" else devices, (self.nodes or 1) if nodes == 1 else nodes


def check_parts(flags: Namespace) -> None:
    """Raises InputError for strategies, plugins and profilers, by name or class, that cannot train sparse codes."""
    for key in ("strategy", "plugins", "profiler"):
        for part in flags[key] if isinstance(flags[key], list) else [flags[key]]:
            name = str(getattr(part, "class_path", part)).rpartition(".")[2]
            otherwise = "Give ddp." if key == "strategy" else "Leave it out."
            if name.lower().startswith(("fsdp", "deepspeed", "modelparallel")):
                raise InputError(key, name, f"cannot shard a sparse table of codes. {otherwise}")
            if name.lower().startswith(("xla", "single_xla", "single_tpu")):
                raise InputError(key, name, f"is for TPUs, which cannot train a sparse table of codes. {otherwise}")
            if name.startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
                raise InputError(key, name, f"starts processes that miss signals and errors. {otherwise}")
            if key == "strategy" and part == name and name in strategies.__all__:
                raise InputError(key, name, f"is a class. Give --strategy.class_path {name}, or ddp.")


def check_trainer(trainer: Trainer, launch: Launch, precision: Any, sync_batchnorm: bool) -> None:
    """Raises InputError for settings that several processes do not support; logs what several processes change."""
    flags = (trainer.num_devices, trainer.num_nodes)
    if launch.by and flags != (launch.devices, launch.nodes):
        started = f"{launch.by} started {launch.devices} on each of {launch.nodes} nodes"
        key, value = ("devices", flags[0]) if flags[0] != launch.devices else ("num_nodes", flags[1])
        raise InputError(key, value, f"{started}. Leave out --devices and --num_nodes.")
    if trainer.world_size == 1:
        return
    if not isinstance(trainer.strategy, DDPStrategy):
        name = type(trainer.strategy).__name__
        raise InputError("strategy", name, "cannot shard a sparse table of codes. Give ddp.")
    if str(precision) in ("16", "16-mixed"):
        remedy = "can skip a step on one rank only. Give bf16-mixed, or one device."
        raise InputError("precision", precision, remedy)
    if sync_batchnorm and trainer.strategy.root_device.type == "cpu":
        raise InputError("sync_batchnorm", True, "is not available on the CPU. Leave it out.")
    message = "%d processes: each trains its part of every batch."
    if not sync_batchnorm:
        message += " BatchNorm normalises each part by itself, which changes the recipe."
    log.info(message, trainer.world_size)


def is_child() -> bool:
    """Whether Lightning's launcher has started this process."""
    return os.environ.get(PARENT_VARIABLE) == str(os.getppid())


def end_with_parent() -> None:
    """Ends this process when its parent ends, even by a kill."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def wait_for_children(trainer: Trainer, seconds: float = 10) -> None:
    """Waits for the processes that Lightning started from this one, and kills those that do not end."""
    for child in child_processes(trainer):
        try:
            child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
