"""Progress of long work: a bar in a terminal, and a line now and then where output goes to a file."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Literal

from tqdm import tqdm

log = logging.getLogger(__name__)

ProgressMode = Literal["auto", "bar", "lines", "none"]
SECONDS_BETWEEN_LINES = 60.0

_mode: ProgressMode = "auto"
# Called with each bar of this context whenever it moves: it shows the bar elsewhere, or raises StoppedError.
watcher: ContextVar[Callable[[Progress], None] | None] = ContextVar("watcher", default=None)


class StoppedError(Exception):
    """The user has stopped long work."""


def set_progress(mode: ProgressMode) -> None:
    """Sets how this process shows progress. ``auto`` is a bar in a terminal, else lines."""
    global _mode
    _mode = mode


def progress_mode() -> Literal["bar", "lines", "none"]:
    """How progress is shown: as set, or by whether standard output is a terminal."""
    if _mode != "auto":
        return _mode
    return "bar" if sys.stdout is not None and sys.stdout.isatty() else "lines"


class Progress(tqdm):
    """tqdm for both: in a terminal its bar, else one line a minute and one at the end, unless ``leave`` is false.

    One that is ``hidden`` is for the context's ``watcher`` alone.
    """

    def __init__(self, *args: Any, hidden: bool = False, **kwargs: Any):
        self.disable: bool = False
        self.mode, self.last_line = "none" if hidden else progress_mode(), time.monotonic()
        self.watcher = watcher.get()
        if self.mode == "lines":
            kwargs["bar_format"] = "{desc}: {n_fmt}/{total_fmt}{unit} in {elapsed}"
        super().__init__(*args, file=sys.stdout, disable=self.mode == "none" and not self.watcher, **kwargs)

    def update(self, n: float | None = 1) -> bool | None:
        drawn = super().update(n)
        if self.watcher is not None:
            self.watcher(self)
        return drawn

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draws the bar, or logs a line if the last one is a minute old."""
        if self.mode == "bar":
            return super().display(msg, pos)
        if self.mode == "lines" and time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            log.info(str(self))
        return True

    def close(self) -> None:
        if self.mode != "bar" and not self.disable:
            self.disable = True  # tqdm would end its bar
            if self.mode == "lines" and self.leave and self.n:
                log.info(str(self))
        super().close()
