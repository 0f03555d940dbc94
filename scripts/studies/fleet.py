"""Trains many recipes at once on one GPU, where a study is given ``--accelerator gpu``.

A GPU needs a fraction of the time for a step of these small generators that Python needs to launch it. So a step, from
the rows of a batch to the update of their codes, is captured once as a CUDA graph; then all models take their steps in
turn, each on a stream of its own: 2,500 steps a second on an H200. What a step does is what Lightning's training does
(tests/studies/test_study_fleet.py), but that all batches have 32 images: one may go on into the next epoch. Several
processes measure the models.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import BATCH, train
from pytorch_lightning import seed_everything
from torch import Tensor

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.store import StoredImages
from glo_lightning.images import from_uint8
from glo_lightning.module import GLO
from glo_lightning.optimizers import AdamW, rate_factor

EAGER = 3  # steps before the capture, in which libraries make what they keep


class Job(NamedTuple):
    """What is trained and measured: names that tell a recipe, a seed, and steps."""

    names: tuple[str, ...]
    seed: int
    steps: int


Make = Callable[[Job], tuple[GLO, LSUNDataModule]]
Measure = Callable[[Job, GLO, LSUNDataModule], dict[str, Any]]


class Member:
    """A model with all that its steps need on the device.

    Args:
        model: whose rows move by ``sgd``.
        data: its images.
        steps: of the training.
        pixels: of the training images (N, C, H, W), uint8, on the device.
        bf16: whether the forward pass is autocast.
    """

    def __init__(self, model: GLO, data: LSUNDataModule, steps: int, pixels: Tensor, bf16: bool = True):
        self.model, self.pixels, self.steps, self.bf16 = model.to(pixels.device).train(), pixels, steps, bf16
        self.count = torch.zeros(1, dtype=torch.long, device=pixels.device)
        model._trainer = SimpleNamespace(datamodule=data, global_step=self.count)  # type: ignore[assignment]
        model.on_fit_start()
        self.began, model.total_steps = model.latents.weight.detach().clone(), steps
        order: list[np.ndarray] = []
        while sum(map(len, order)) < steps * BATCH:
            order.append(np.random.default_rng([data.seed, len(order)]).permutation(data.num_images))
        rows = torch.from_numpy(np.concatenate(order)[: steps * BATCH]).view(steps, BATCH)
        factors = torch.tensor([rate_factor(model.schedule, step, steps) for step in range(steps)])
        self.order, self.factors = rows.to(pixels.device), factors.to(pixels.device)
        self.parameters: list[Tensor] = [*model.generator.parameters()]
        self.adam: torch.optim.Optimizer | None = None
        if issubclass(model.optimizer_class, AdamW):
            rate, capturable = torch.zeros((), device=pixels.device), pixels.is_cuda
            self.adam = torch.optim.AdamW(
                self.parameters, lr=rate, betas=(0.9, 0.99), weight_decay=model.weight_decay, capturable=capturable
            )

    def step(self) -> None:
        """``GLO.training_step``, the optimizer's step, and the projection, of the next batch."""
        model, table = self.model, self.model.latents.weight
        rows = self.order.index_select(0, self.count)[0]
        codes = table.detach()[rows].requires_grad_()
        with torch.autocast(self.pixels.device.type, torch.bfloat16, self.bf16, cache_enabled=False):
            loss = model.objective(codes, from_uint8(self.pixels[rows]))
        found = torch.autograd.grad(loss, [*self.parameters, codes], materialize_grads=True)
        gradients, gradient = list(found[:-1]), found[-1]
        with torch.no_grad():
            factor = self.factors.index_select(0, self.count)[0]
            rate = model.generator_lr * factor
            if self.adam is None:
                torch._foreach_add_(gradients, self.parameters, alpha=model.weight_decay)
                torch._foreach_mul_(gradients, -rate)
                torch._foreach_add_(self.parameters, gradients)
            else:
                self.adam.param_groups[0]["lr"].copy_(rate)
                for parameter, its in zip(self.parameters, gradients, strict=True):
                    parameter.grad = its
                self.adam.step()
            if model.latent_lr > 0:
                table[rows] = model.project(codes - BATCH * model.latent_lr * factor * gradient)
            self.count += 1

    def capture(self) -> None:
        """Takes the first steps, and captures one."""
        self.stream = torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(min(EAGER, self.steps)):
                self.step()
        self.stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.step()


def train_together(members: Sequence[Member]) -> None:
    """Takes all steps of all members, on a GPU."""
    for member in members:
        member.capture()
    for number in range(EAGER, max(member.steps for member in members)):
        for member in members:
            if number < member.steps:
                with torch.cuda.stream(member.stream):
                    member.graph.replay()
    torch.cuda.synchronize()


def run(
    jobs: Sequence[Job], make: Make, measure: Measure, accelerator: str, precision: str, workers: int
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Trains the jobs, on a CPU in turn by Lightning, on a GPU together, and yields what was measured of each.

    ``make`` gives a job's model and data, ``measure`` its measures; both are functions of a module, or a
    ``functools.partial`` of one, for the processes that measure beside a GPU, ``workers`` of them.
    """
    if accelerator == "gpu":
        yield from run_together(jobs, make, measure, precision.startswith("bf16"), workers)
        return
    for job in jobs:
        limits = {"max_steps": job.steps, "max_epochs": -1}
        model, data, _ = train(partial(_seeded, make, job), job.seed, precision, "cpu", **limits)
        yield job, measure(job, model, data)


def _seeded(make: Make, job: Job, seed: int) -> tuple[GLO, LSUNDataModule]:
    return make(job._replace(seed=seed))


def run_together(
    jobs: Sequence[Job], make: Make, measure: Measure, bf16: bool = True, workers: int = 12, at_once: int = 16
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Trains the jobs, some at once, and yields what was measured of each.

    Args:
        jobs: what is trained.
        make: from a job to model and data; a function of a module, or a ``functools.partial`` of one.
        measure: of a trained model on the GPU, likewise.
        bf16: whether the forward pass is autocast.
        workers: processes that measure.
        at_once: models that are trained at once.
    """
    begin = _Beginning(make, bf16)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(workers, context) as processes:
        measured: dict[Future[dict[str, Any]], Job] = {}
        for first in range(0, len(jobs), at_once):
            some = jobs[first : first + at_once]
            members = [begin(job) for job in some]
            train_together(members)
            for number, (job, member) in enumerate(zip(some, members, strict=True), first):
                file = Path(folder) / f"{number}.pt"
                torch.save(member.model.state_dict(), file)
                measured[processes.submit(_measure, job, make, measure, file)] = job
            del members
            for future in [future for future in measured if future.done()]:
                yield measured.pop(future), future.result()
        for future in as_completed(measured):
            yield measured[future], future.result()


class _Beginning:
    """Makes members, which share the pixels of a data set and the codes that PCA gives it."""

    def __init__(self, make: Make, bf16: bool):
        self.make, self.bf16 = make, bf16
        self.pixels: dict[tuple[Any, ...], Tensor] = {}
        self.codes: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, job: Job) -> Member:
        seed_everything(job.seed, workers=True, verbose=False)
        model, data = self.make(job)
        assert isinstance(data.dataset, StoredImages)
        images = (data.root, data.image_size, data.num_images)
        if images not in self.pixels:
            self.pixels[images] = data.dataset.images[: data.num_images].cuda()
        start = (*images, model.latents.embedding_dim, model.whiten, model.project)
        if model.init == "pca" and start in self.codes:
            model.latents.weight.data.copy_(self.codes[start])
            model.initialised = True
        member = Member(model, data, job.steps, self.pixels[images], self.bf16)
        if model.init == "pca":
            self.codes[start] = member.began
        return member


def _measure(job: Job, make: Make, measure: Measure, file: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    model, data = make(job)
    model.load_state_dict(torch.load(file, weights_only=True))
    return measure(job, model.cuda().eval().requires_grad_(False), data)
