"""How the processes of a run are started, by torchrun, srun or Lightning, and how they end."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from typing import Any, NamedTuple

from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy

from glo_lightning.errors import InputError
from glo_lightning.lightning_internals import child_processes

log = logging.getLogger(__name__)

# How a process that Lightning's launcher starts knows itself: it runs the same command.
PARENT_VARIABLE = "GLO_LIGHTNING_PARENT"


class Launch(NamedTuple):
    """Who started this process, and which one it is, as told by the launcher's variables.

    Attributes:
        by: ``torchrun``, ``srun``, or None: then Lightning starts the others of this node.
        is_first: whether it is the first of all processes, whose the run folder is.
        devices, nodes: processes on each node, and nodes; None where the flags say it.
    """

    by: str | None
    is_first: bool
    devices: int | None = None
    nodes: int | None = None

    @property
    def plugins(self) -> list[ClusterEnvironment]:
        """For the Trainer: under SLURM Lightning would requeue the job by itself."""
        return [SLURMEnvironment(auto_requeue=False)] if self.by == "srun" else []

    @classmethod
    def found(cls) -> Launch:
        """This process's; no process group is needed."""
        variables = os.environ
        if TorchElasticEnvironment.detect():
            devices, processes = int(variables["LOCAL_WORLD_SIZE"]), int(variables["WORLD_SIZE"])
            return cls("torchrun", TorchElasticEnvironment().global_rank() == 0, devices, processes // devices)
        if SLURMEnvironment.detect():
            # not by a SLURMEnvironment, which raises where the number for each node is missing: see complete
            devices, nodes = (int(variables.get(f"SLURM_{name}", 1)) for name in ("NTASKS_PER_NODE", "NNODES"))
            return cls("srun", variables["SLURM_PROCID"] == "0", devices, nodes)
        lightning = LightningEnvironment()
        return cls(None, lightning.local_rank() == 0 == lightning.node_rank())

    def complete(self, devices: Any, nodes: int) -> tuple[Any, int]:
        """Devices and nodes for the Trainer: as the flags say; else as the launcher does; else one.

        Raises:
            InputError: for variables of SLURM that say too little.
        """
        tasks = os.environ.get("SLURM_NTASKS")
        if self.by == "srun" and tasks != "1" and "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise InputError("SLURM_NTASKS", tasks, "tells no number for each node; give srun --ntasks-per-node")
        return (self.devices or 1) if devices == "auto" else devices, (self.nodes or 1) if nodes == 1 else nodes


def check_strategy(strategy: object) -> None:
    """Raises InputError for a strategy by name that the codes, or the command line, cannot do with."""
    name = str(strategy)
    if name.startswith(("fsdp", "deepspeed")):
        raise InputError("strategy", name, "cannot share out a sparse table of codes; give ddp")
    if name.startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
        raise InputError("strategy", name, "starts processes in which signals and faults are not heard; give ddp")


def check_trainer(trainer: Trainer, launch: Launch, precision: Any, sync_batchnorm: bool) -> None:
    """Tells what several processes change.

    Raises:
        InputError: for what several processes cannot do, and for flags that contradict their launcher.
    """
    given = (trainer.num_devices, trainer.num_nodes)
    if launch.by and given != (launch.devices, launch.nodes):
        said = f"{launch.by} started {launch.devices} on each of {launch.nodes} nodes"
        key, value = ("devices", given[0]) if given[0] != launch.devices else ("num_nodes", given[1])
        raise InputError(key, value, f"{said}; leave --devices and --num_nodes out")
    if trainer.world_size == 1:
        return
    if not isinstance(trainer.strategy, DDPStrategy):
        name = type(trainer.strategy).__name__
        raise InputError("strategy", name, "cannot share out a sparse table of codes; give ddp")
    if str(precision) in ("16", "16-mixed"):
        remedy = "can leave out a step in one of several processes alone; give bf16-mixed, or one device"
        raise InputError("precision", precision, remedy)
    if sync_batchnorm and trainer.strategy.root_device.type == "cpu":
        raise InputError("sync_batchnorm", True, "is torch's own, which has none on the CPU; leave it out")
    message = "%d processes: each has its part of every batch"
    if not sync_batchnorm:
        message += " and BatchNorm normalises that alone, another recipe than one process's (see configs/README.md)"
    log.info(message, trainer.world_size)


def is_child() -> bool:
    """Whether Lightning's launcher, in another process of this program, has started this one."""
    return os.environ.get(PARENT_VARIABLE) == str(os.getppid())


def end_with_parent() -> None:
    """Has a process end when the one that started it does, however that ends."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def wait_for_children(trainer: Trainer) -> None:
    """Returns when the processes that Lightning started from this one are gone: they end with it, if in good order."""
    for child in child_processes(trainer):
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
