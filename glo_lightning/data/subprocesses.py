"""Subprocesses for work that may kill its process, as liblmdb does when pages were overwritten."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import warnings
from collections.abc import Callable, Sequence

import torch

INTERVAL = 0.5  # seconds between two calls of ``on_wait``


def run_in_subprocesses(
    actions: Sequence[Callable[[], object]], on_wait: Callable[[], object] = lambda: None
) -> list[int]:
    """Runs all actions at the same time, each in a process forked from this one; returns their exit statuses.

    A status is 0, or minus the number of the signal that killed the process.

    Args:
        actions: functions that catch their own exceptions; what they return is lost.
        on_wait: is called at least twice a second while they run, and when they have ended.
    """
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_run, args=(action,), daemon=True) for action in actions]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)  # they need no other thread's lock
            for process in processes:
                process.start()
        running = [process.sentinel for process in processes]
        while running:
            ended = multiprocessing.connection.wait(running, timeout=INTERVAL)
            running = [sentinel for sentinel in running if sentinel not in ended]
            on_wait()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
    return [process.exitcode or 0 for process in processes]


def _run(action: Callable[[], object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    action()
