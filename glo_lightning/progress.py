"""Progress of long work: a bar in a terminal, and a line now and then where output goes to a file."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Literal

from tqdm import tqdm

log = logging.getLogger(__name__)

ProgressMode = Literal["auto", "bar", "lines", "none"]
SECONDS_BETWEEN_LINES = 60.0

_mode: ProgressMode = "auto"


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
    """tqdm for both: in a terminal its bar, else one line a minute and one at the end."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.disable: bool = False
        self.mode, self.last_line = progress_mode(), time.monotonic()
        if self.mode == "lines":
            kwargs["bar_format"] = "{desc}: {n_fmt}/{total_fmt}{unit} in {elapsed}"
        super().__init__(*args, file=sys.stdout, disable=self.mode == "none", **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draws the bar, or logs a line if the last one is a minute old."""
        if self.mode == "bar":
            return super().display(msg, pos)
        if time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            log.info(str(self))
        return True

    def close(self) -> None:
        if self.mode == "lines" and not self.disable:
            self.disable = True  # tqdm would end its bar
            if self.n:
                log.info(str(self))
        super().close()
