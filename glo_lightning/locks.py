"""A file that one process at a time holds: who trains into a run folder, fills a store, writes an output."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import time
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

# what a disk without such locks answers, as some network disks and containers do
NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Lock:
    """A lock that one process at a time holds, until it releases it or ends, however it ends.

    The system keeps it (flock). On a disk without such locks a second file, ``<path>.owner``, names process and host:
    there the lock of a process that was killed can be taken over on its own host, and has to be removed on others.

    Args:
        path: a file, which is there while the lock is held; it names the process that holds it.
    """

    def __init__(self, path: Path):
        self.path, self.owner = path, path.with_name(f"{path.name}.owner")
        self._file: IO[str] | None = None
        self._is_named = False

    def acquire(self) -> bool:
        """Takes the lock; returns False where another process has it.

        Raises:
            OSError: when the file cannot be made.
        """
        while fcntl is not None:
            file = open(self.path, "a+")  # noqa: SIM115
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                if isinstance(error, BlockingIOError):
                    return False
                if error.errno not in NO_FLOCK:
                    raise
                self.path.unlink(missing_ok=True)
                break
            if _is_at(file, self.path):
                with contextlib.suppress(OSError):  # a full disk takes no name, and needs none
                    os.ftruncate(file.fileno(), 0)
                    os.write(file.fileno(), _this_process().encode())
                self._file = file
                _held.append(self)
                return True
            file.close()  # its holder has removed it between the two calls
        return self._acquire_by_name()

    def _acquire_by_name(self) -> bool:
        if self._is_abandoned():
            self.owner.unlink(missing_ok=True)
        try:
            with open(self.owner, "x") as file:
                file.write(_this_process())
        except FileExistsError:
            return False
        self._is_named = True
        return True

    def _is_abandoned(self) -> bool:
        """Whether the process that the owner file names was one of this host, and is no more."""
        try:
            number, host = re.findall(r"^process (\d+) on (.+), since", self.owner.read_text())[0]
            if host == socket.gethostname():
                os.kill(int(number), 0)
        except ProcessLookupError:
            return True
        except (OSError, IndexError):
            return False
        return False

    def holder(self) -> str:
        """The process that has the lock, its host, and since when, as far as the file tells."""
        for file in (self.owner, self.path):
            with contextlib.suppress(OSError, ValueError):
                if text := file.read_text():
                    return f"{text} ({file})" if file == self.owner else text
        return "another process"

    def release(self) -> None:
        """Gives the lock up; does nothing where this object does not have it."""
        if self._file is not None:
            if _is_at(self._file, self.path):
                self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None
            _held.remove(self)
        if self._is_named:
            self.owner.unlink(missing_ok=True)
            self._is_named = False


_held: list[Lock] = []


def _forget() -> None:
    """In a process that was forked: the lock is its parent's and ends with that, however long this one lives."""
    for lock in _held:
        if lock._file is not None:
            os.close(lock._file.fileno())
            lock._file = None
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
