"""Images a second of what users run, and of the two plain loops; how often a step waits for the device."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from benchmarking.data import Images
from benchmarking.plain_loops import CarefulLoop, MinimalLoop
from benchmarking.waits import Waits
from glo_lightning.generator import Generator
from glo_lightning.module import GLO
from glo_lightning.runs.checkpoints import AtomicCheckpointIO, Checkpoints
from glo_lightning.runs.folder import RunLogger
from glo_lightning.training.callbacks import Curves, ReconstructionGrid, SampleGrid, Throughput
from glo_lightning.training.finite_loss import FiniteLoss
from glo_lightning.training.reports import Bar

PRECISIONS = ("bf16-mixed", "tf32", "32-true")
PLAIN = ("minimal", "careful")
PLAIN_SECONDS = 10.0  # of minimal_glo's way, at most


def is_low(precision: str) -> bool:
    return precision == "bf16-mixed"


def set_tf32(precision: str) -> None:
    """Lets CUDA's products and convolutions round float32 to TF32, or not; PyTorch's default rounds convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], device: torch.device, repeats: int = 1) -> float:
    """Mean seconds of one call."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronize(device)
    return (time.perf_counter() - began) / repeats


class Clock(Callback):
    """Times so many steps after so many to warm up, with and without what comes between two epochs.

    Attributes:
        seconds: of these steps, the epochs' ends among them.
        pauses: seconds of the latter: pictures, checkpoints, the next epoch's order.
        images: in these steps.
    """

    def __init__(self, warm: int, steps: int):
        self.warm, self.last = warm, warm + steps
        self.images, self.pauses, self.seconds = 0, 0.0, 0.0
        self.epoch_ended: float | None = None

    def _now(self, device: torch.device) -> float:
        synchronize(device)
        return time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.epoch_ended is not None:
            self.pauses += self._now(pl_module.device) - self.epoch_ended

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if self.warm < step <= self.last:
            self.images += len(batch[1])
        if step == self.warm:
            self.began = self._now(pl_module.device)
        if step == self.last:
            self.seconds = self._now(pl_module.device) - self.began
        self.epoch_ended = None
        if trainer.is_last_batch and self.warm <= step < self.last:
            self.epoch_ended = self._now(pl_module.device)


def make_model(options: argparse.Namespace, num_images: int, compile: bool) -> GLO:
    """A GLO of the benchmark's size."""
    generator = partial(Generator, width=options.width)
    return GLO(num_images, options.latent_dim, generator=generator, init="random", compile=compile)


def fit(
    options: argparse.Namespace,
    data: Images,
    precision: str,
    compile: bool,
    own: list[Callback],
    steps: int,
    log_every: int,
) -> GLO:
    """Trains a GLO for so many steps as scripts/train.py does, with its callbacks, bar, TensorBoard and checkpoints.

    The run folder is removed, and the output hidden.
    """
    torch.compiler.reset()  # a function that was compiled for many models is compiled no more
    model = make_model(options, data.num_images, compile)
    callbacks = [Curves(), Throughput(), FiniteLoss(), ReconstructionGrid(), SampleGrid(), Bar(), *own, Checkpoints()]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        Trainer(
            default_root_dir=folder,
            logger=RunLogger(Path(folder), None),
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            accelerator=options.accelerator,
            devices=1,
            precision="bf16-mixed" if is_low(precision) else "32-true",
            log_every_n_steps=log_every,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            max_epochs=-1,
            max_steps=steps,
        ).fit(model, data)
    return model


def measure_training(
    options: argparse.Namespace, data: Images, device: torch.device
) -> tuple[list[dict[str, Any]], GLO]:
    """Images a second of one batch size, of all precisions, compiled and not; in each round all take turns.

    Returns:
        A row for each setting, with the best of the rounds; and the last model that was trained in the first precision.
    """
    rates: dict[Any, list[float]] = defaultdict(list)
    steps = options.warm + options.batches
    log_every = min(50, data.num_images // data.batch_size)  # as scripts/train.py has it by default
    minimal = MinimalLoop(data.num_images, options.latent_dim, options.width, device)
    stream = minimal.batches(data.images, data.batch_size, options.workers)  # its workers continue between two rounds
    for _ in range(options.rounds):
        torch.backends.cudnn.allow_tf32 = True  # PyTorch's default
        rates["minimal"].append(_minimal_rate(minimal, stream, options.batches))
        for precision in options.precision:
            set_tf32(precision)
            rates["careful", precision].append(_careful_rate(options, data, precision, device))
            for compiled in options.compile:
                clock = Clock(options.warm, options.batches)
                trained = fit(options, data, precision, compiled, [clock], steps, log_every)
                if precision == options.precision[0]:
                    model = trained
                rates["ours", precision, compiled].append(clock.images / (clock.seconds - clock.pauses))
                rates["whole", precision, compiled].append(clock.images / clock.seconds)
    rows = []
    for precision in options.precision:
        for compiled in options.compile:
            best = {
                "images_per_second": max(rates["ours", precision, compiled]),
                "images_per_second_with_epoch_ends": max(rates["whole", precision, compiled]),
                "careful_images_per_second": max(rates["careful", precision]),
                "minimal_images_per_second": max(rates["minimal"]),
            }
            ratios = {f"ratio_{name}": best["images_per_second"] / best[f"{name}_images_per_second"] for name in PLAIN}
            setting = {"batch_size": data.batch_size, "precision": precision, "compile": compiled}
            rows.append(setting | best | ratios | {"rounds": rates["ours", precision, compiled]})
    return rows, model


def _minimal_rate(loop: MinimalLoop, stream: Iterator[tuple[Tensor, Tensor]], batches: int) -> float:
    for batch, index in itertools.islice(stream, 3):
        loop.step(batch, index)
    began, images = time.perf_counter(), 0
    for batch, index in itertools.islice(stream, batches):  # a step reads its loss: it is over when it returns
        loop.step(batch, index)
        images += len(index)
        if time.perf_counter() - began > PLAIN_SECONDS:
            break
    return images / (time.perf_counter() - began)


def _careful_rate(options: argparse.Namespace, data: Images, precision: str, device: torch.device) -> float:
    images = data.dataset.images.to(device)  # type: ignore[union-attr]
    loop = CarefulLoop(images, options.latent_dim, options.width, is_low(precision))
    batches = loop.batches(data.batch_size)
    loop.run(batches, options.warm)
    return options.batches * data.batch_size / seconds(lambda: loop.run(batches, options.batches), device)


def measure_waits(options: argparse.Namespace, data: Images) -> list[dict[str, Any]]:
    """How often a step of ours waits for the device; on a CPU the waits that it would have, of what isn't compiled."""
    rows = []
    for compiled in options.compile if options.accelerator == "gpu" else [False]:
        waits = Waits(options.warm)
        log_every = max(1, min(10, data.num_images // data.batch_size // 2))
        steps = options.warm + 5 * log_every
        set_tf32(options.precision[0])
        fit(options, data, options.precision[0], compiled, [waits], steps, log_every)
        rows.append({"compile": compiled, "log_every_n_steps": log_every, **waits.summary(log_every)})
    return rows
