"""Kills commands at random instants, gives them again until they end, and compares with what was never killed.

    python tests/kill_anywhere.py [--kills 100] [--seed 0]

A training is killed while it decodes, computes the PCA, trains, writes a checkpoint and fits its flow, each run with an
empty cache; with two processes, one of them is killed. encode.py --fit_encoder, export.py and build_lmdb.py are killed
between their start and their end. Prints a Markdown table. Ends with an error where a result differs in one bit, where
a process lives on, and where a temporary file is left.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import os
import random
import runpy
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "training"))  # of test_processes

import lmdb
import numpy as np
from conftest import REPOSITORY, TINY, encode, equal, load
from forked import Program
from safetensors.torch import load_file
from test_processes import by_torchrun, free_port

RUN = (*TINY, "--data.num_samples=520", "--data.batch_size=52", "--max_epochs=6", "--log_every_n_steps=1")
RUN += ("--checkpoint.every_n_steps=3", "--prior=flow")
LAST_PICTURE = "images/samples_epoch_005.png"
PHASES = {  # what is there when they begin, and how long they take, in seconds
    "decoding": ("decoding 520 of", 0.6),
    "PCA": ("decoded 520 of", 0.6),
    "training": ("PCA init: wrote", 2.0),
    "writing a checkpoint": (".new.ckpt", 0.01),
    "fitting the flow": (LAST_PICTURE, 3.0),
}


def small_flow() -> None:
    """Has this process fit a flow that takes a second."""
    from glo_lightning.priors.flow import Flow

    Flow.__init__.__defaults__ = (150, 32, 1)  # type: ignore[misc]


def script(name: str, *arguments: object) -> None:
    """Runs scripts/<name>.py in a forked process, in the place of train.py."""
    sys.argv = [f"{name}.py", *map(str, arguments)]
    runpy.run_path(str(REPOSITORY / "scripts" / f"{name}.py"), run_name="__main__")
    raise SystemExit


class Kills:
    """Kills in a temporary folder, counted by what was going on."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.random = folder, random.Random(seed)
        self.kills: Counter[str] = Counter()
        logging.getLogger("tensorboard").setLevel(logging.ERROR)  # that steps of a killed run are purged
        (folder / "images").mkdir()
        numbers = np.random.default_rng(0)
        for row in range(300):
            pixels = numbers.integers(0, 256, (96, 96, 3), np.uint8)
            (folder / "images" / f"{row}.png").write_bytes(encode(pixels))

    def start_training(self, run: Path, size: int) -> list[Program]:
        begun = (run / "config.yaml").exists()
        arguments = ("--resume", run) if begun else (*RUN, "--output", run)
        variables = {"XDG_CACHE_HOME": f"{run}.cache"}
        port = free_port()
        return [
            Program(
                Path(f"{run}.{rank}"),
                *arguments,
                variables=variables | (by_torchrun(rank, size, port) if size > 1 else {}),
                before=small_flow,
            )
            for rank in range(size)
        ]

    def train(self, run: Path, size: int) -> None:
        """Trains to the end."""
        self.complete(*self.start_training(run, size))

    @staticmethod
    def complete(*programs: Program) -> None:
        for program in programs:
            assert program.status(180) == 0, program.errors()

    def has_begun(self, run: Path, phase: str, since: float) -> bool:
        mark = PHASES[phase][0]
        if phase == "writing a checkpoint":
            return any((run / "checkpoints").glob(f"{mark}*"))
        if phase == "fitting the flow":
            return (run / mark).exists() and time.time() - since > 1
        output = Path(f"{run}.0.1")
        return output.exists() and mark in output.read_text()

    def kill_training(self, run: Path, size: int, phase: str) -> bool:
        """Starts or resumes a run and kills it in that phase; returns whether it has ended before."""
        Path(f"{run}.0.1").unlink(missing_ok=True)  # what the start before has said
        programs, since = self.start_training(run, size), time.time()
        victim = self.random.choice(programs)
        while victim.process.is_alive() and not self.has_begun(run, phase, since):
            time.sleep(0.001)
        time.sleep(self.random.uniform(0, PHASES[phase][1]))
        victim.process.kill()
        statuses = [program.status(120) for program in programs]  # none hangs
        if statuses == [0] * size:
            return True
        assert victim.process.exitcode == -9 or all(statuses), (statuses, programs[0].errors())
        self.kills[f"{phase}, two processes" if size > 1 else phase] += victim.process.exitcode == -9
        return False

    def training(self, kills: int, size: int) -> int:
        """Kills runs until there were so many; returns the number of runs, all of which end as the whole one."""
        whole = self.folder / f"whole_{size}"
        self.train(whole, size)
        number, before = 0, sum(self.kills.values())
        while sum(self.kills.values()) - before < kills:
            number += 1
            run = self.folder / f"killed_{size}_{number}"
            for phase in [*PHASES, self.random.choice(list(PHASES))]:
                if sum(self.kills.values()) - before == kills or self.kill_training(run, size, phase):
                    break
            self.train(run, size)
            same_run(whole, run)
            nothing_is_left(run, Path(f"{run}.cache"))
            for path in (run, Path(f"{run}.cache")):
                shutil.rmtree(path)
        return number

    def command(
        self, name: str, kills: int, arguments: Callable[[Path], list[object]], is_same: Callable, result: str = ""
    ) -> None:
        """Kills a command so many times, anywhere, and gives it again until its result is there."""
        variables = {"XDG_CACHE_HOME": f"{self.folder / 'whole_1'}.cache"}

        def start(output: Path) -> Program:
            return Program(
                Path(f"{output}.said"), variables=variables, before=functools.partial(script, name, *arguments(output))
            )

        whole = self.folder / f"whole_{name}"
        arguments(whole)
        since = time.monotonic()
        self.complete(start(whole))
        seconds = time.monotonic() - since
        for number in itertools.count():
            if self.kills[f"{name}.py"] == kills:
                break
            output = self.folder / name / f"killed_{number}"
            output.parent.mkdir(exist_ok=True)
            program = start(output)
            time.sleep(self.random.uniform(0.1, seconds))
            program.process.kill()
            status = program.status(180)
            assert status in (0, -9), program.errors()
            self.kills[f"{name}.py"] += status == -9
            if not (output / result).exists():
                self.complete(start(output))
            is_same(whole, output)
            nothing_is_left(output.parent)


def same_run(whole: Path, run: Path) -> None:
    """Checkpoints, pictures and the flow are equal, bit for bit."""
    keys = ("state_dict", "initial_codes", "global_step", "epoch", "epoch_loss", "optimizer_states", "callbacks")
    for name in ("last", "best", "previous"):
        first, second = load(whole, name), load(run, name)
        assert all(equal(first[key], second[key]) for key in keys), f"{name}.ckpt differs"
    pictures = [{file.name: file.read_bytes() for file in (folder / "images").iterdir()} for folder in (whole, run)]
    assert pictures[0] == pictures[1], "a picture differs"
    flows = [next((folder / "priors").glob("flow-*")).read_bytes() for folder in (whole, run)]
    assert flows[0] == flows[1], "the flow differs"


def same_files(whole: Path, output: Path) -> None:
    names = {file.relative_to(whole) for file in whole.rglob("*")}
    assert names == {file.relative_to(output) for file in output.rglob("*")}
    assert all((whole / name).read_bytes() == (output / name).read_bytes() for name in names)


def same_encoder(whole: Path, output: Path) -> None:
    first, second = (load_file(folder / "encoder.safetensors") for folder in (whole, output))
    assert equal(first, second)


def same_records(whole: Path, output: Path) -> None:
    contents = []
    for folder in (whole, output):
        with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
            contents.append(dict(transaction.cursor()))
    assert contents[0] == contents[1]
    assert len(contents[0]) == 300


def nothing_is_left(*folders: Path) -> None:
    """No temporary file and no lock."""
    left = [
        path for folder in folders for path in folder.rglob("*") if path.name.startswith(".") or ".tmp" in path.name
    ]
    left += [path for folder in folders for path in folder.rglob("*.lock")]
    assert not [path for path in left if path.name != ".written-by-glo.json"], left


def copied_run(run: Path, output: Path) -> list[object]:
    """The arguments of encode.py, for a copy of the run at ``output``."""
    if not output.exists():
        shutil.copytree(run, output)
    return [output, "--fit_encoder", "--accelerator=cpu"]


def kill_anywhere(kills: int, seed: int, folder: Path) -> Counter[str]:
    """Returns the number of kills by what was going on."""
    killing, run = Kills(folder, seed), folder / "whole_1"
    two_processes, times = round(0.2 * kills), round(0.08 * kills)  # times for each of three commands
    killing.training(kills - two_processes - 3 * times, size=1)
    killing.training(two_processes, size=2)
    killing.command("export", times, lambda output: [run, output], same_files)
    killing.command("build_lmdb", times, lambda output: [output, folder / "images"], same_records)
    killing.command("encode", times, functools.partial(copied_run, run), same_encoder, "encoder.safetensors")
    return killing.kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        counted = kill_anywhere(arguments.kills, arguments.seed, Path(folder))
    print("| killed while | times | afterwards |\n|---|---|---|")
    for what, times in counted.items():
        print(f"| {what} | {times} | equal to the bit, nothing left |")
    print(f"\n{sum(counted.values())} kills, {time.monotonic() - began:.0f} s, seed {arguments.seed}")


if __name__ == "__main__":
    main()
