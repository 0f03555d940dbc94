"""scripts/train.py in processes that are forked from a server which has imported torch: they start at once."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from conftest import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "train.py"
SECONDS = 60  # the longest that a process may take
forks = multiprocessing.get_context("forkserver")
IMPORTED = ("glo_lightning.training.cli", "sklearn.decomposition", "torchvision.utils", "tensorboard")
forks.set_forkserver_preload([*IMPORTED, "pytest", "conftest", "forked"])


def _run(arguments: Sequence[str], variables: Mapping[str, str], output: str, before: Callable | None) -> None:
    """In the new process: its output goes to files, and its data loaders' workers are forked from it."""
    os.setsid()
    for number in (1, 2):
        os.dup2(os.open(f"{output}.{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(variables)
    os.chdir(Path(output).parent)
    multiprocessing.set_start_method("fork", force=True)  # a fork server would outlive it
    if before is not None:
        before()
    from glo_lightning.training.cli import main

    sys.argv = [str(SCRIPT), *arguments]
    main(REPOSITORY / "configs" / "quickstart.yaml")


def wait_for(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


class Program:
    """A process of scripts/train.py, with a process group of its own.

    Args:
        output: what it prints goes to ``<output>.1`` and ``<output>.2``, in the folder that it works in.
        arguments: its command line.
        variables: added to its environment.
        before: called in it before main.
    """

    def __init__(
        self,
        output: Path,
        *arguments: object,
        variables: Mapping[str, str] | None = None,
        before: Callable | None = None,
    ):
        self.output = output
        variables = {"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"], **(variables or {})}
        self.process = forks.Process(target=_run, args=(list(map(str, arguments)), variables, str(output), before))
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def status(self, seconds: float = SECONDS) -> int:
        """Waits for its end, and returns its exit status."""
        self.process.join(max(0, seconds))
        status = self.process.exitcode
        self.process.kill()
        assert status is not None, f"it hangs: {self.errors()}"
        return status

    def errors(self) -> list[str]:
        """Its lines on stderr."""
        return Path(f"{self.output}.2").read_text().strip().splitlines()
