"""Standard output and error of programs that outlive their reader: ``| head -1``, a closed terminal, a full disk."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def streams_may_close() -> Iterator[None]:
    """A block in which errors of standard output and error are ignored: what cannot be written there is dropped."""
    streams = [stream and _Stream(stream) for stream in (sys.stdout, sys.stderr)]  # None where closed from the start
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            yield
        finally:
            for stream in streams:
                if stream is not None:
                    stream.flush()


class _Stream:
    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except OSError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        """Redirects the stream to nowhere: the interpreter flushes it once more, and child processes write there."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
