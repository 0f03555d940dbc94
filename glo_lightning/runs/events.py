"""TensorBoard's event files, written so that a disk that fails neither ends a thread nor damages a file."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter, SummaryWriter

from glo_lightning.errors import OnError

log = logging.getLogger(__name__)


class EventWriter(SummaryWriter):
    """torch's SummaryWriter, with files of its own: TensorBoard's are written by a thread, which a full disk ends.

    Args:
        folder: a folder, which need not exist.
        first_step: of a run that continues; events of later steps that are there already no longer count.
        on_write_error: ``raise`` the disk's error from ``flush`` and ``close``, or ``skip`` the event, with a warning.
    """

    def __init__(
        self, folder: str | os.PathLike[str], first_step: int | None = None, on_write_error: OnError = "raise"
    ):
        self.on_write_error = on_write_error
        super().__init__(os.fspath(folder), purge_step=first_step)

    def _get_file_writer(self) -> FileWriter:
        if self.file_writer is not None:
            return self.file_writer
        writer = _FileWriter(self.log_dir, self.on_write_error)
        if self.purge_step is not None:
            writer.add_event(Event(session_log=SessionLog(status=SessionLog.START)), self.purge_step)
            self.purge_step = None
        self.file_writer, self.all_writers = writer, {self.log_dir: writer}  # type: ignore[assignment]
        return writer


class _FileWriter(FileWriter):
    def __init__(self, folder: str, on_write_error: OnError):
        self.event_writer = _EventFile(folder, on_write_error)
        self.add_event(Event(file_version="brain.Event:2"))


class _EventFile:
    """Writes events at once. What an error has left of one is removed again: those after it could not be read."""

    def __init__(self, folder: str, on_write_error: OnError):
        self.folder, self.on_write_error = folder, on_write_error
        self.error: OSError | None = None  # to be raised
        self.skips = False
        self._file: BinaryIO | None = None

    def add_event(self, event: Event) -> None:
        try:
            RecordWriter(self).write(event.SerializeToString())
            self.skips = False
        except OSError as error:
            if self.on_write_error == "raise":
                self.error = error  # Lightning would turn it into a ValueError if it were raised here
            elif not self.skips:
                log.warning("TensorBoard's curves could not be written (%s). Training continues.", error)
                self.skips = True

    def write(self, record: bytes) -> None:
        if self._file is None:
            self._file = self._open()
        start, left = self._file.tell(), memoryview(record)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            self._file.truncate(start)
            self._file.seek(start)
            raise

    def _open(self) -> BinaryIO:
        os.makedirs(self.folder, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
        return open(os.path.join(self.folder, name), "xb", buffering=0)

    def flush(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
