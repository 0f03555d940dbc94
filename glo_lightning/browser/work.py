"""Long work of the server: how far it is, when it will be done, and an end to it."""

from __future__ import annotations

import time
from typing import Any

from glo_lightning.progress import Progress, StoppedError


class Work:
    """A watcher of the bars of one piece of work; see ``progress.watcher``.

    Attributes:
        about: for the page: what is done, the part of it that is done, and the seconds that are left, None where these
            cannot be told yet. None before the first bar moves.
        stopped: set it, and the work ends at its next step by StoppedError.
    """

    def __init__(self) -> None:
        self.about: dict[str, Any] | None = None
        self.stopped = False

    def __call__(self, bar: Progress) -> None:
        if self.stopped:
            raise StoppedError
        done, total = float(bar.n), float(bar.total or 0)
        left = (time.time() - bar.start_t) * (total - done) / done if done else None
        self.about = {"what": bar.desc.removesuffix(": "), "done": done / total if total else 0, "left": left}
