"""The commands that make the page's pictures."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path


class Commands:
    """Writes commands on a run, of the path and the flags that find it, such as ``--data.root``."""

    def __init__(self, run: Path, flags: Sequence[str]):
        self.run, self.flags = run, flags

    def line(self, script: str, output: str | None, *arguments: str) -> str:
        """Write a command line; ``output`` is the beginning of the picture's name, None if the arguments have it."""
        flags = self.flags if output is None else [*self.flags, "--output", self.output(output, ".png", *arguments)]
        return shlex.join(["python", f"scripts/{script}.py", str(self.run), *arguments, *flags])

    def output(self, name: str, suffix: str, *arguments: str) -> str:
        """Make a file name that no other command has, so that one command can be run after another."""
        return f"{name}-{hashlib.sha256(repr(arguments).encode()).hexdigest()[:6]}{suffix}"
