"""Atomic writing: files and folders appear complete, or stay as they were."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import logging
import os
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from glo_lightning.errors import DamagedError, InputError, OnError, decoding
from glo_lightning.locks import NOT_SUPPORTED, Lock

log = logging.getLogger(__name__)

MARK = "glo_lightning"  # in files that the package wrote, which it may replace
LIST = ".written-by-glo.json"  # in a folder that a command wrote: the names of its files


def reserve_space(file: int, num_bytes: int) -> None:
    """Reserves the space of an open file, if the disk can do that. If not, a full disk is noticed while it is written.

    Raises:
        OSError: if there is no room.
    """
    try:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file, 0, num_bytes)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/glo_lightning``, else ``~/.cache/glo_lightning``; not created here.

    Raises:
        InputError: if neither is known, as in a container whose user has no entry in ``/etc/passwd``.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glo_lightning"
    except RuntimeError as error:
        remedy = "is not set, and this user has no home folder. Set it to a folder for decoded images."
        raise InputError("XDG_CACHE_HOME", "", remedy) from error


def disk_remedy(error: OSError) -> str:
    """What to do about an error of the disk, as the start of a sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Make room"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Allow writing there"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        return "Check that the folder is there"
    return "Check the disk"


class _Sink:
    """A file that keeps its first write error: torch.save would turn the OSError into a RuntimeError."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        pass


def write_whole(path: Path, write: Callable[[Any], Any], shared: bool = False) -> None:
    """Writes a file atomically: ``write(file)`` fills a file beside ``path``, which is synced and moved to ``path``.

    Args:
        path: in an existing folder.
        write: takes a binary file.
        shared: whether several processes may write this path at once.

    Raises:
        OSError: if the disk fails or is full; the file that was there before is unchanged.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    if shared:
        _remove_left(path)
        temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            sink = _Sink(file)
            write(sink)
            if sink.error is not None:
                raise sink.error
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _remove_left(path: Path) -> None:
    """Removes what processes of this host that were killed while they wrote ``path`` have left."""
    for file in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(socket.gethostname())}.*.tmp"):
        try:
            os.kill(int(file.suffixes[-2][1:]), 0)
        except (ProcessLookupError, ValueError):
            file.unlink(missing_ok=True)
        except OSError:
            pass  # another user's


@contextlib.contextmanager
def handle_write_errors(what: str, on_write_error: OnError) -> Iterator[None]:
    """Raises the OSErrors of the block or, with ``skip``, turns them into warnings that ``what`` was not written."""
    try:
        yield
    except OSError as error:
        if on_write_error == "raise":
            raise
        log.warning("%s could not be written (%s). Training continues.", what, error)


def load_torch(path: Path) -> Any:
    """Loads a file that ``torch.save`` wrote, after its checksums are verified. Code in it is not unpickled.

    Its tensors are mapped from the file. Damaged files raise all kinds of errors, see ``errors.decoding``.
    """
    import torch  # slow, and most users of this module do without

    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def write_text(path: Path, text: str) -> None:
    """Writes text atomically."""
    write_whole(path, lambda file: file.write(text.encode()))


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Writes a dictionary atomically as JSON, marked as written by this package."""
    write_text(path, json.dumps({"written_by": MARK, **results}, indent=1) + "\n")


@contextlib.contextmanager
def whole_folder(path: Path, replace: bool = False, listed: bool = False) -> Iterator[Path]:
    """Yields an empty folder that becomes ``path`` when the block ends, or is removed if the block fails.

    A folder that is replaced is moved aside first and deleted last. A process that is killed in between leaves both
    folders, and the next call restores the old one.

    Args:
        path: the folder to write; a link to a folder means that folder.
        replace: allows ``path`` to exist, if it contains nothing but ``listed`` files.
        listed: leaves a list of its files in the new folder, so that it may be replaced later.

    Raises:
        OSError: if the disk fails, if another process is writing ``path``, or if ``path`` may not be replaced. What was
            there before is unchanged.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    new, old = (path.with_name(f".{path.name}.{state}-by-glo") for state in ("new", "replaced"))
    lock = Lock(path.with_name(f".{path.name}.lock"))
    if not lock.acquire():
        raise OSError(errno.EBUSY, f"{lock.holder()} is writing it", os.fspath(path))
    try:
        if old.exists():  # a process was killed here
            _discard(old) if path.exists() else old.rename(path)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        yield new
        if listed:
            names = sorted(file.relative_to(new).as_posix() for file in new.rglob("*") if not file.is_dir())
            write_text(new / LIST, json.dumps(names, indent=1))
        foreign = unlisted(path) if replace else path if os.path.lexists(path) else None
        if foreign is not None:
            raise FileExistsError(errno.EEXIST, "is there already", os.fspath(foreign))
        _swap(new, path, old)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        lock.release()


def _swap(new: Path, path: Path, old: Path) -> None:
    """Moves ``new`` to ``path``; an existing ``path`` is moved to ``old`` first and deleted at the end."""
    is_replaced = path.exists()
    if is_replaced:
        path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        if is_replaced:
            old.rename(path)
        raise
    sync_folder(path.parent)
    if is_replaced:
        _discard(old)


def unlisted(path: Path) -> Path | None:
    """Returns the first file at ``path`` that is not in the list that ``whole_folder`` left there, if there is one."""
    if not os.path.lexists(path):
        return None
    if not path.is_dir():
        return path
    listed = _listed(path)
    parents = {parent for file in listed for parent in file.parents}
    return next((p for p in sorted(path.rglob("*")) if p not in (parents if _is_folder(p) else listed)), None)


def _listed(folder: Path) -> set[Path]:
    with contextlib.suppress(DamagedError), decoding("output", folder, ""):
        return {folder / LIST, *(folder / name for name in json.loads((folder / LIST).read_bytes()))}
    return set()


def _discard(folder: Path) -> None:
    """Deletes a folder of listed files, the list last. A folder with others is kept, with a warning."""
    if unlisted(folder) is not None:
        log.warning("%s contains files that were added while the folder was replaced. They are kept there.", folder)
        return
    for path in sorted(folder.rglob("*"), reverse=True):  # files before their folder
        if path != folder / LIST:
            path.rmdir() if _is_folder(path) else path.unlink()
    (folder / LIST).unlink(missing_ok=True)
    folder.rmdir()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def link(source: Path, target: Path) -> None:
    """Makes ``target`` a hard link to the file ``source``, atomically.

    Raises:
        OSError: if the file system has no hard links.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    os.link(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # os.replace leaves it if both names were one file before


def link_or_copy(source: Path, target: Path) -> None:
    """Makes ``target`` a hard link to ``source`` or, where the file system has no such links, a copy; atomically."""
    try:
        link(source, target)
    except OSError:
        with open(source, "rb") as opened:
            write_whole(target, lambda file: shutil.copyfileobj(opened, file))


def sync_folder(path: Path) -> None:
    """Writes a folder's list of names to the disk, as fsync does for a file's content, if the disk can do that."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
    finally:
        os.close(folder)


def holds_run(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder contains the files that every run has."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in ("config.yaml", "environment.json"))
