"""Breaks runs in every way it knows, resumes them, and compares the end with the run that was never stopped.

    python tests/break_things.py [--kills 50] [--seed 0]

Every run is a process of its own. Prints a Markdown table: the fault, how many times it was tried, what was lost and
what the user saw. Ends with an error where a resumed run is not the uninterrupted one, bit for bit.
"""

from __future__ import annotations

import argparse
import errno
import functools
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "training"))  # of test_finite_loss

from conftest import TINY, curves, load, same_state
from forked import Program

EVERY = 3  # steps between two checkpoints
RUN = (*TINY, "--data.num_samples=240", "--data.batch_size=8", "--max_epochs=8", "--log_every_n_steps=1")
RUN += (f"--checkpoint.every_n_steps={EVERY}",)
POISONED = ("--model.loss=test_finite_loss.NaNInCall5",)
STREAMING = ("--data.cache=false", "--data.num_workers=2")


class Row(NamedTuple):
    fault: str
    tried: int
    lost: str
    seen: str


def inject(fault: str) -> None:
    """Has this process's 5th write of a checkpoint fail in that way."""
    if fault == "file size limit":
        limit_size()
        return
    function = "replace" if fault == "crash between write and rename" else "fsync"
    real, calls = getattr(os, function), []

    def failing(target, *rest):
        name = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(target)
        calls.extend([name] if name.endswith(".new.ckpt.tmp") else [])
        if len(calls) == 5:
            if fault == "crash between write and rename":
                os.kill(os.getpid(), signal.SIGKILL)
            code = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}[fault]
            raise OSError(code, os.strerror(code), name)
        return real(target, *rest)

    setattr(os, function, failing)


def limit_size() -> None:
    """The system itself refuses what goes over the limit: the 5th checkpoint is cut short in its middle."""
    import torch

    real, calls = torch.save, []

    def save(checkpoint, file):
        calls.append(file)
        if len(calls) == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        real(checkpoint, file)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    torch.save = save


class Runs:
    """Runs with these flags in one temporary folder, and the uninterrupted one to compare them with."""

    def __init__(self, folder: Path, seed: int, flags: tuple[str, ...] = RUN):
        self.folder, self.random, self.number, self.flags = folder, random.Random(seed), 0, flags
        self.whole = self.new()
        assert self.start(self.whole).status(120) == 0, self.said(self.whole)

    def new(self) -> Path:
        self.number += 1
        return self.folder / f"run_{self.number}"

    def start(self, run: Path, *flags: str, fault: str | None = None) -> Started:
        begun = (run / "config.yaml").exists()
        arguments = ("--resume", run) if begun else (*self.flags, *flags, "--output", run)
        logging.getLogger("tensorboard").setLevel(logging.ERROR)  # that steps of a killed run are purged
        return Started(run, *arguments, before=fault and functools.partial(inject, fault))

    def said(self, run: Path) -> str:
        """The last line on stderr."""
        lines = Path(f"{run}.2").read_text().strip().splitlines()
        return lines[-1].replace(str(self.folder), "") if lines else ""

    def finish(self, run: Path) -> None:
        """Resumes and compares."""
        assert self.start(run).status(120) == 0, self.said(run)
        assert same_state(self.whole, run), f"{run} is not the run that was never stopped"
        expected = curves(self.whole)
        for tag, points in curves(run).items():
            assert len(dict(points)) == len(points), f"{tag} has a step twice"
            assert set(points) <= set(expected[tag]), f"{tag} differs"
            # The point of the step that a checkpoint was written at may be lost with the process right after it.
            assert len(expected[tag]) - len(points) <= 20, f"{tag} lacks points"

    def step(self, run: Path) -> int:
        """That of the newest checkpoint; 0 without one."""
        return load(run)["global_step"] if (run / "checkpoints" / "last.ckpt").exists() else 0

    def reached(self, run: Path) -> int:
        """The steps that were logged, so taken, before the end."""
        return max((step + 1 for step, _ in curves(run).get("train/loss", [])), default=0) if run.exists() else 0


class Started(Program):
    """A program that trains into ``output``, the run folder."""

    def wait_for(self, steps: int, seconds: float = 60) -> None:
        """Until a checkpoint at or after that step is there, or the process has ended."""
        last, deadline = self.output / "checkpoints" / "last.ckpt", time.monotonic() + seconds
        before = last.stat().st_mtime_ns if last.exists() else 0
        while self.process.is_alive() and time.monotonic() < deadline:
            if last.exists() and last.stat().st_mtime_ns > before and steps <= 0:
                return
            if last.exists() and last.stat().st_mtime_ns > before:
                before, steps = last.stat().st_mtime_ns, steps - EVERY
            time.sleep(0.001)


def killed(runs: Runs, kills: int, flags: tuple[str, ...] = (), what: str = "") -> Row:
    """SIGKILL at random instants: while it starts, trains or writes; some eight for each run."""
    lost, in_write, left, done = [], 0, kills, []
    while left:
        run = runs.new()
        for _ in range(min(left, 8)):
            started = runs.start(run, *flags)
            if runs.random.random() < 0.2:
                time.sleep(runs.random.uniform(0, 2))
            else:
                started.wait_for(0)
                time.sleep(runs.random.uniform(0, 0.3))
            started.process.kill()  # which may have ended by itself
            if started.status(120) == 0:
                break  # it was done before
            left -= 1
            in_write += any((run / "checkpoints").glob(".*"))
            lost.append(runs.reached(run) - runs.step(run))
            assert wait_until(lambda pid=started.pid: not group_lives(pid)), "its workers live on"
        done.append(run)
    for run in done:
        if not (run / "config.yaml").exists():  # killed before it began: the same command again
            assert runs.start(run, *flags).status(120) == 0
        runs.finish(run)
    # EVERY, less the one that the next checkpoint is about to hold, and what is logged while it is written
    assert max(lost) <= EVERY, f"{max(lost)} steps lost"
    steps = f"at most {max(lost)} steps, those since the last checkpoint (every {EVERY}); {in_write} hit a write"
    return Row(f"SIGKILL at a random instant{what}", kills, steps, "resumed, equal to the bit")


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def signalled(runs: Runs, number: signal.Signals, times: int, flags: tuple[str, ...] = (), what: str = "") -> Row:
    """A signal to the whole process group, as schedulers and terminals send it."""
    run, status = runs.new(), 128 + number
    for _ in range(times):
        started = runs.start(run, *flags)
        started.wait_for(0)
        time.sleep(runs.random.uniform(0, 0.2))
        os.killpg(started.pid, number)
        assert started.status(120) == status, (started.process.exitcode, runs.said(run))
        assert runs.reached(run) == runs.step(run), "a step is lost"
    seen = runs.said(run)
    runs.finish(run)
    return Row(f"{number.name}{what}", times, "nothing", f"exit status {status}: `{seen}`")


def damaged(runs: Runs, how: str) -> Row:
    """last.ckpt is damaged while the run is down."""
    run = runs.new()
    started = runs.start(run)
    started.wait_for(5 * EVERY)
    started.process.kill()
    started.status(120)
    last = run / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 4
    last.unlink()
    if how != "is deleted":
        last.write_bytes(content if how == "has one bit flipped" else content[: runs.random.randrange(len(content))])
    lost = runs.reached(run) - load(run, "previous")["global_step"]
    runs.finish(run)
    said = next(line for line in Path(f"{run}.1").read_text().splitlines() if "Continuing from" in line)
    return Row(f"last.ckpt {how}", 1, f"{lost} steps: one checkpoint more", f"`{said.replace(str(runs.folder), '')}`")


def disk(runs: Runs, fault: str) -> Row:
    """The disk fails in a write; then it is well again."""
    run = runs.new()
    status = runs.start(run, fault=fault).status(120)
    assert status == (-9 if fault.startswith("crash") else 1), (status, runs.said(run))
    seen = f"exit status {status}: `{runs.said(run)}`" if status > 0 else "resumed, equal to the bit"
    lost = runs.reached(run) - runs.step(run)
    runs.finish(run)
    return Row(f"{fault} while a checkpoint is written", 1, f"{lost} steps", seen)


def not_finite(runs: Runs) -> Row:
    """The loss of the fifth batch is not a number."""
    run = runs.new()
    status = runs.start(run, *POISONED, "--log_every_n_steps=10").status(120)
    seen = runs.said(run)
    assert (status, runs.step(run)) == (1, EVERY), (status, seen)
    return Row("a loss that is not a number", 1, "2 steps, one of them the bad one", f"exit status 1: `{seen}`")


def break_things(kills: int, seed: int, folder: Path) -> Iterable[Row]:
    runs = Runs(folder, seed)
    streaming = kills * 2 // 5
    yield killed(runs, kills - streaming)
    if streaming:
        yield killed(runs, streaming, STREAMING, ", streaming with two workers")
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        yield signalled(runs, number, 3)
    yield signalled(runs, signal.SIGTERM, 3, STREAMING, " to all processes, two workers")
    for how in ("is cut short", "has one bit flipped", "is deleted"):
        yield damaged(runs, how)
    for fault in ("ENOSPC", "EIO", "file size limit", "crash between write and rename"):
        yield disk(runs, fault)
    yield not_finite(runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        print("| fault | tried | lost | the user saw |\n|---|---|---|---|")
        for row in break_things(arguments.kills, arguments.seed, Path(folder)):
            print("|", " | ".join(map(str, row)), "|", flush=True)
    print(f"\n{time.monotonic() - began:.0f} s, seed {arguments.seed}")


if __name__ == "__main__":
    main()
