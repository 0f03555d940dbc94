"""A file lock that one process at a time holds: to train into a run folder, fill a cache or write an output."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import time
from pathlib import Path
from typing import IO

# errors of a disk that cannot do what is asked: some network disks have no locks, or do not sync folders
NOT_SUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Lock:
    """A lock that one process at a time holds until it releases the lock or ends, even by a kill.

    The operating system keeps it (flock). On a disk without flock a second file, ``<path>.owner``, names the process
    and its host. There the lock of a killed process can be taken over on the same host; on others, remove the file.

    Args:
        path: a file that exists while the lock is held and names the process that holds it.
    """

    def __init__(self, path: Path):
        self.path, self.owner = path, path.with_name(f"{path.name}.owner")
        self._file: IO[str] | None = None
        self._is_named = False

    def acquire(self) -> bool:
        """Takes the lock; returns False if another process has it.

        Raises:
            OSError: if the file cannot be created.
        """
        while True:
            file = open(self.path, "a+")  # noqa: SIM115
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                if isinstance(error, BlockingIOError):
                    return False
                if error.errno not in NOT_SUPPORTED:
                    raise
                self.path.unlink(missing_ok=True)
                return self._acquire_by_name()
            if _is_at(file, self.path):
                break
            file.close()  # its holder has removed it between open and flock
        with contextlib.suppress(OSError):  # on a full disk the lock works without a name
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), _this_process().encode())
        self._file = file
        _held.append(self)
        return True

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
        """Whether the owner file names a process of this host that has ended."""
        try:
            number, host = re.findall(r"^process (\d+) on (.+), since", self.owner.read_text())[0]
            if host == socket.gethostname():
                os.kill(int(number), 0)
        except ProcessLookupError:
            return True
        except (OSError, ValueError, IndexError, OverflowError):
            return False
        return False

    def holder(self) -> str:
        """The process that holds the lock, its host and the time it took it, as far as the file says."""
        for file in (self.owner, self.path):
            with contextlib.suppress(OSError, ValueError):
                if text := file.read_text():
                    return f"{text} ({file})" if file == self.owner else text
        return "another process"

    def release(self) -> None:
        """Releases the lock; does nothing if this object does not hold it."""
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


def _forget_locks() -> None:
    """Drops the locks in a forked process: they belong to its parent and end with it, even if the child lives on."""
    for lock in _held:
        if lock._file is not None:
            os.close(lock._file.fileno())
            lock._file = None
    _held.clear()


os.register_at_fork(after_in_child=_forget_locks)


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
