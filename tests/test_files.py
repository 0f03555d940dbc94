import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glo_lightning.files import unlisted, whole_folder
from glo_lightning.files import write_whole as write_atomically


def test_a_write_cut_short_is_an_oserror_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.ckpt"
    write_atomically(path, lambda file: torch.save({"a": torch.zeros(3)}, file))
    content, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # what comes after is refused by the system
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(path, lambda file: torch.save({"a": torch.zeros(300_000)}, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_no_kill_and_no_fault_while_a_folder_or_a_file_is_replaced_loses_both(tmp_path):
    program = Path(__file__).with_name("kill_points.py")
    done = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind, least in (("folder", 10), ("file", 2)):
        killed, failed = map(int, re.findall(rf"{kind}: killed at (\d+) points, failed at (\d+)", done.stdout)[0])
        assert min(killed, failed) >= least


def write(path, content="mine", **options):
    with whole_folder(path, **options) as folder:
        (folder / "a.txt").write_text(content)


def test_a_folder_is_replaced_only_where_all_in_it_is_listed(tmp_path):
    path = tmp_path / "out"
    write(path, "first", listed=True)
    assert unlisted(path) is None
    with pytest.raises(FileExistsError):
        write(path, "second", listed=True)
    write(path, "third", replace=True, listed=True)
    (path / "sub").mkdir()
    for foreign in (path / "sub", path / "sub" / "photo.png"):
        assert unlisted(path) == path / "sub"
        with pytest.raises(FileExistsError):
            write(path, "fourth", replace=True)
        foreign.mkdir(exist_ok=True) if foreign == path / "sub" else foreign.touch()
    assert (path / "a.txt").read_text() == "third"


def test_what_comes_into_a_folder_while_it_is_replaced_is_kept(tmp_path):
    path = tmp_path / "out"
    write(path, "first", listed=True)
    with pytest.raises(FileExistsError), whole_folder(path, replace=True):
        (path / "photo.png").write_text("a photograph")
    assert (path / "photo.png").read_text() == "a photograph"
    assert [other.name for other in tmp_path.iterdir()] == ["out"]


def test_a_list_that_names_files_elsewhere_deletes_none(tmp_path):
    path, photo = tmp_path / "out", tmp_path / "photo.png"
    photo.write_text("a photograph")
    write(path, listed=True)
    (path / ".written-by-glo.json").write_text(f'["a.txt", "../photo.png", "{photo}"]')
    write(path, "new", replace=True)
    assert (path / "a.txt").read_text() == "new"
    assert photo.read_text() == "a photograph"


def test_two_cannot_write_one_folder_at_once(tmp_path):
    with whole_folder(tmp_path / "out") as folder:
        (folder / "a.txt").write_text("first")
        with pytest.raises(OSError, match="is writing it"):
            write(tmp_path / "out", "second")
    assert (tmp_path / "out" / "a.txt").read_text() == "first"
