"""Processes of their own for what may end a process, as liblmdb does on pages that were overwritten."""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Callable, Sequence

import torch


def run_in_subprocesses(actions: Sequence[Callable[[], object]]) -> list[int]:
    """Does each in a process that is forked from this one, all at once; returns their exit statuses.

    A status is 0, or minus the number of the signal that ended the process. Where the system has no fork, all is done
    in this process.

    Args:
        actions: each catches its own exceptions; what it returns is lost.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        for action in actions:
            action()
        return [0] * len(actions)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_do, args=(action,), daemon=True) for action in actions]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)  # they need no other thread's lock
            for process in processes:
                process.start()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
    return [process.exitcode or 0 for process in processes]


def _do(action: Callable[[], object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run's to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    action()
