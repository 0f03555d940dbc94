"""Signals before the first step: none is lost, and none leaves a folder."""

import signal
import time

import pytest
from conftest import TINY

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
