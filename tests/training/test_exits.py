"""Signals before the first step: none is lost, and none leaves a folder."""

import signal
import time

import pytest
from conftest import TINY
from forked import forks
from torch.distributed import TCPStore

from glo_lightning.locks import Lock
from glo_lightning.training.exits import exit_before_fit, handle_signals

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Ends:
    """Gets a signal where Python ignores exceptions, as in the callbacks of a fork."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


def get_signal_and_wait(number):
    with handle_signals([signal.SIGTERM], exit_before_fit):
        Ends(number)
        time.sleep(5)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_whose_exception_python_ignores_is_not_lost(number):
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        get_signal_and_wait(number)


def connect_to_nobody():
    """Gets a signal that Python ignores, and then waits in C++, where Python cannot call a handler."""
    with handle_signals([signal.SIGTERM], exit_before_fit):
        Ends(signal.SIGTERM)
        with handle_signals(SIGNALS, signal.SIG_DFL):
            TCPStore("127.0.0.1", 0, world_size=2, is_master=True, wait_for_workers=True)


def test_such_a_signal_ends_a_process_that_then_waits_for_the_others():
    process = forks.Process(target=connect_to_nobody)
    process.start()
    process.join(20)
    process.kill()
    assert process.exitcode == 128 + signal.SIGTERM


@pytest.mark.parametrize("output", [[], ["--output=run"]])
def test_a_signal_while_the_folder_is_created_leaves_none(run, tmp_path, monkeypatch, output):
    acquire = Lock.acquire

    def interrupted(lock):
        acquired = acquire(lock)
        signal.raise_signal(signal.SIGTERM)
        return acquired

    monkeypatch.setattr(Lock, "acquire", interrupted)
    assert run(*TINY, *output) == (143, "Stopped before the first step. Nothing was written.")
    assert not list(tmp_path.iterdir())
