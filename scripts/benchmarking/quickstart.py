"""What a new user waits for: the quickstart on the shipped images, by the command line's own classes."""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from benchmarking.waits import Waits
from glo_lightning.errors import InputError
from glo_lightning.training.arguments import expand_arguments
from glo_lightning.training.cli import TrainCLI
from glo_lightning.training.exits import error_line
from glo_lightning.training.fit import fit

SCRIPTS = Path(__file__).resolve().parents[1]
RECIPE = SCRIPTS.parent / "configs" / "quickstart.yaml"
LOSS = 0.033  # it ends at 0.0322 on a CPU; another order of sums moves that by a hundredth
WARM, PROFILED = 10, 20  # steps
LARGEST = 10
LOG_EVERY = 10


class LossClock(Callback):
    """Seconds since ``began`` and ``train/loss_epoch`` at the end of each epoch."""

    def __init__(self, began: float):
        self.began = began
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = float(trainer.callback_metrics["train/loss_epoch"])  # waits for the device
        self.epochs.append({"seconds": time.monotonic() - self.began, "loss": loss})


class Profile(Callback):
    """Profiles 20 steps after 10 to warm up.

    Attributes:
        rows: the ten operations that take longest by themselves, on the device where there is one.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows: list[dict[str, Any]] = []
        self.profile: profile | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        on_cuda = pl_module.device.type == "cuda"
        if trainer.global_step == WARM:
            self.profile = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda)
            self.profile.__enter__()
        elif trainer.global_step == WARM + PROFILED and self.profile is not None:
            if on_cuda:
                torch.cuda.synchronize()
            self.profile.__exit__(None, None, None)
            self.rows = _largest(self.profile, on_cuda)
            self.profile = None


def _largest(profiled: profile, on_cuda: bool) -> list[dict[str, Any]]:
    def own(event: Any) -> float:
        return event.self_device_time_total if on_cuda else event.self_cpu_time_total

    events = sorted(profiled.key_averages(), key=own, reverse=True)[:LARGEST]
    return [
        {
            "operation": event.key,
            "calls_a_step": event.count / PROFILED,
            "cpu_ms_a_step": event.self_cpu_time_total / 1e3 / PROFILED,
            "device_ms_a_step": event.self_device_time_total / 1e3 / PROFILED,
        }
        for event in events
    ]


def _train(arguments: list[str], own: list[Callback]) -> None:
    """scripts/train.py in this process, into a folder that is removed; its output is hidden."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        try:
            output = ["--output", str(Path(folder) / "run")]
            expanded, recipe = expand_arguments([*arguments, *output], RECIPE)
            cli = TrainCLI(recipe, expanded)
            cli.trainer.callbacks[-1:-1] = own  # type: ignore[attr-defined]  # after Curves, which logs the loss
            fit(cli.start, cli.trainer, cli.model, cli.datamodule)
        except (ArgumentError, InputError) as error:
            line, _ = error_line(error) or (str(error), 1)
            raise SystemExit(line) from error


def _deterministic(arguments: list[str], steps: int) -> dict[str, Any]:
    """Two runs of scripts/train.py with ``--deterministic true``: whether they end, and in the same bits."""
    flags = [*arguments, "--deterministic", "true", "--max_steps", str(steps)]
    # programs of their own: CUDA's libraries look at their settings once, when they are first used
    command = [sys.executable, str(SCRIPTS / "train.py"), *flags, "--output"]
    states = []
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / name for name in ("first", "second")]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        programs = [subprocess.Popen([*command, str(run)], **pipes) for run in runs]
        errors = [program.communicate()[1].strip().splitlines() for program in programs]
        for run, program, lines in zip(runs, programs, errors, strict=True):
            if program.returncode:
                return {"runs": False, "error": lines[-1:]}
            checkpoint = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
            states.append(checkpoint["state_dict"])
    same = all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())
    return {"runs": True, "same_bits": same, "steps": steps}


def measure_quickstart(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """Seconds to the quickstart's loss, from the parsing of its flags on; profile and waits; two deterministic runs.

    The arguments are further flags of scripts/train.py.
    """
    common = ["--accelerator", options.accelerator, "--prior", "null", *arguments]
    epochs = [] if options.epochs is None else ["--max_epochs", str(options.epochs)]
    clock = LossClock(time.monotonic())
    _train([*common, *epochs], [clock])
    reached = (epoch["seconds"] for epoch in clock.epochs if epoch["loss"] <= LOSS)
    steps: dict[str, Any] = {}
    for compiled in ("false", "true") if options.accelerator == "gpu" else ("false",):
        profiled, waits = Profile(), Waits(WARM + PROFILED)
        limits = ["--max_steps", str(WARM + PROFILED + 3 * LOG_EVERY), "--log_every_n_steps", str(LOG_EVERY)]
        _train([*common, "--model.compile", compiled, *limits], [profiled, waits])
        how = "compiled" if compiled == "true" else "not compiled"
        steps[how] = {"profile": profiled.rows, "waits": waits.summary(LOG_EVERY)}
    return {
        "loss": LOSS,
        "seconds_to_loss": next(reached, None),
        "epochs": clock.epochs,
        "steps": steps,
        "deterministic": _deterministic(common, steps=WARM),
    }
