"""Replaces a folder and a file, killed at, or failed by, each call to the system: run by test_files.py.

    python tests/kill_points.py FOLDER

Prints the number of points of each kind that were tried; ends with an error where old and new are both lost.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from glo_lightning.files import unlisted, whole_folder, write_text

CALLS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "open", "ftruncate", "write")
OLD, NEW = {"a.txt": "old", "b/c.txt": "old"}, {"a.txt": "new", "d.txt": "new"}


def replace_folder(place: Path, content: dict[str, str] = NEW) -> None:
    with whole_folder(place / "out", replace=True, listed=True) as folder:
        for name, text in content.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)


def replace_file(place: Path) -> None:
    write_text(place / "out.txt", "new")


def break_call(number: int, fault: Callable[[], None], made: list[str]) -> None:
    """Has the call of that number, of all that follow in this process, end in the fault before it is made."""

    def broken(name: str, real: Callable) -> Callable:
        def call(*arguments, **options):
            made.append(name)
            if len(made) == number:
                fault()
            return real(*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, broken(name, getattr(os, name)))


def broken_at(number: int, fault: Callable[[], None], replace: Callable[[Path], None], place: Path) -> bool:
    """Whether there were so many calls, and the fault did no harm."""
    made: list[str] = []
    break_call(number, fault, made)
    replace(place)
    return len(made) >= number


def fail() -> None:
    raise OSError(errno.EIO, "Input/output error")


def in_fork(action: Callable[[], bool]) -> int:
    """The status: 0 when it was done without the fault, 3 in spite of it, 1 for an OSError, 9 when it was killed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    leave = os._exit
    try:
        was_broken = action()
    except OSError:
        leave(1)
    except BaseException:
        leave(2)
    leave(3 if was_broken else 0)
    raise AssertionError


def texts(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def try_points(place: Path, fault: Callable[[], None], replace: Callable[[Path], None]) -> int:
    """Tries every point, until the work is done without one; returns how many there were."""
    number = 0
    while True:
        number += 1
        here = place / str(number)
        here.mkdir(parents=True)
        replace_folder(here, OLD)
        (here / "out.txt").write_text("old")
        status = in_fork(functools.partial(broken_at, number, fault, replace, here))
        assert status in (0, 1, 3, 9), status
        assert (here / "out.txt").read_text() in ("old", "new")
        aside = here / ".out.replaced-by-glo"
        whole = [texts(folder) in (OLD, NEW) and unlisted(folder) is None for folder in (here / "out", aside)]
        assert whole[0] if (here / "out").exists() else whole[1], f"both are lost at point {number}"
        if status == 1:
            assert (here / "out").exists(), "an error leaves nothing in its place"
        replace_folder(here)  # whatever was left: the next call succeeds
        assert texts(here / "out") == NEW
        assert {path.name for path in here.iterdir()} <= {"out", "out.txt", ".out.txt.tmp"}
        if status == 0:
            return number - 1


if __name__ == "__main__":
    place = Path(sys.argv[1])
    for kind, replace in (("folder", replace_folder), ("file", replace_file)):
        killed = try_points(place / kind / "killed", lambda: os._exit(9), replace)
        failed = try_points(place / kind / "failed", fail, replace)
        sys.stdout.write(f"{kind}: killed at {killed} points, failed at {failed}\n")
