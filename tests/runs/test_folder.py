import importlib.metadata
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, TINY, encode, flat_image, load, same_state
from forked import Program

from glo_lightning.data.sources.folder import FolderSource
from glo_lightning.errors import InputError
from glo_lightning.runs.folder import RunFolder


def test_a_run_folder_contains_what_the_design_says(trained, trained_once):
    files = {str(file.relative_to(trained)) for file in trained.rglob("*") if file.is_file()}
    (event_file,) = [file for file in files if file.startswith("events.out.tfevents.")]
    grids = [f"{tag}_epoch_{epoch:03d}" for tag in ("reconstructions", "samples") for epoch in range(2)]
    images = {f"images/{name}.png" for name in ("targets", *grids)}
    checkpoints = {f"checkpoints/{name}.ckpt" for name in ("last", "previous", "best")}
    assert files == {event_file, "config.yaml", "environment.json", "metrics.json"} | images | checkpoints
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert not {"output", "resume", "ckpt_path", "config"} & config.keys()
    assert str(trained_once) not in (trained / "config.yaml").read_text()
    assert (config["data"]["batch_size"], config["model"]["schedule"]) == (8, "cosine")


def test_without_output_runs_are_numbered(run, tmp_path):
    for number in range(2):
        run(*TINY, "--max_epochs=1")
        assert (tmp_path / "runs" / "quickstart" / f"version_{number}" / "config.yaml").is_file()


def test_a_runs_config_repeats_it_elsewhere(run, trained, tmp_path):
    run("--config", trained / "config.yaml", "--output", tmp_path / "again")
    assert same_state(trained, tmp_path / "again")


def test_a_moved_run_goes_on_in_its_new_place(run, trained, tmp_path):
    moved = tmp_path / "elsewhere" / "run"
    moved.parent.mkdir()
    shutil.copytree(trained, moved)
    shutil.rmtree(trained)
    run("--resume", moved, "--max_epochs=3")
    assert not trained.exists()
    checkpoints = ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert sorted(file.name for file in (moved / "checkpoints").iterdir()) == checkpoints
    assert load(moved)["epoch"] == 2
    assert yaml.safe_load((moved / "config.yaml").read_text())["trainer"]["max_epochs"] == 3


def test_a_full_disk_is_found_out_before_the_work(run, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    status, line = run(*TINY, "--output", tmp_path / "new" / "run")
    assert (status, line.split()[0]) == (2, "--output")
    assert not (tmp_path / "new").exists()


def is_whole(run, seed):
    """Whether a folder holds the run of that seed, all of it."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    starts = json.loads((run / "environment.json").read_text())
    return config["seed_everything"] == seed == starts[0]["seed"] and (run / "checkpoints" / "last.ckpt").exists()


def test_two_starts_at_once_are_two_runs(tmp_path):
    flags = (*TINY, "--max_epochs=1")
    programs = [Program(tmp_path / f"said_{seed}", *flags, f"--seed_everything={seed}") for seed in (1, 2)]
    assert [program.status() for program in programs] == [0, 0]
    runs = sorted((tmp_path / "runs" / "quickstart").iterdir())
    assert [run.name for run in runs] == ["version_0", "version_1"]
    assert any(all(is_whole(run, seed) for run, seed in zip(runs, seeds, strict=True)) for seeds in ((1, 2), (2, 1)))


@pytest.mark.parametrize("resumed", [False, True], ids=["output", "resume"])
def test_of_two_that_want_one_folder_at_once_one_has_it(run, tmp_path, resumed):
    folder, flags = tmp_path / "run", ["--output", tmp_path / "run", "--max_epochs=1"]
    if resumed:
        run(*TINY, *flags)
        flags = ["--resume", folder, "--max_epochs=3"]
    programs = [Program(tmp_path / f"said_{number}", *TINY, *flags) for number in range(2)]
    programs.sort(key=Program.status)
    assert [program.status() for program in programs] == [0, 2]
    (line,) = programs[1].errors()
    assert line.startswith(f"--{'resume' if resumed else 'output'} {folder}: ")
    assert "is in use by process" in line or "contains a run" in line
    assert is_whole(folder, 0)
    assert not (folder / ".lock").exists()


def test_a_folder_is_held_from_the_start_and_by_one(tmp_path):
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.create("output")
    with pytest.raises(InputError, match="is in use by process"):
        second.create("output")
    second.abandon()
    assert (tmp_path / "run" / ".lock").exists()  # it is not the second's to remove
    assert [RunFolder.next_version(tmp_path / "runs").path.name for _ in range(3)] == [f"version_{k}" for k in range(3)]
    first.abandon()
    assert not (tmp_path / "run").exists()


def test_what_a_killed_start_left_empty_is_taken_by_the_next(tmp_path):
    (tmp_path / "runs" / "version_0").mkdir(parents=True)
    (tmp_path / "runs" / "version_0" / ".lock").write_text("process 1 on elsewhere, since long ago")
    (tmp_path / "runs" / "version_1").mkdir()
    (tmp_path / "runs" / "version_1" / "mine.txt").touch()
    taken = [RunFolder.next_version(tmp_path / "runs") for _ in range(2)]
    assert [folder.path.name for folder in taken] == ["version_0", "version_2"]
    for folder in taken:
        folder.abandon()
    # one it has made, the other it has not
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["version_0", "version_1"]


@pytest.mark.parametrize(
    "content", [b"", b'[{"seed": 0}', b"{}", b"\xff\xfe", b"[" * 100_000], ids=lambda b: str(b[:9])
)
def test_a_damaged_environment_json_is_a_warning(run, trained, caplog, content):
    (trained / "environment.json").write_bytes(content)
    assert run("--resume", trained, "--max_epochs=3") == (0, "")
    assert "environment.json cannot be read" in caplog.text
    assert len(json.loads((trained / "environment.json").read_text())) == 1
    assert (trained / "environment.damaged.json").read_bytes() == content


def test_a_folder_that_does_not_exist_is_named(run, tmp_path):
    for name, what in (("nothing", "there is no such folder"), (".", "contains no run")):
        status, line = run("--resume", tmp_path / name)
        assert (status, f"--resume {tmp_path / name}: {what}" in line) == (2, True)


def test_without_a_home_the_variable_to_set_is_named(run, tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    status, line = run(*TINY)
    assert status == 2
    assert (
        line == "XDG_CACHE_HOME : is not set, and this user has no home folder. Set it to a folder for decoded images."
    )


def test_a_run_that_fails_leaves_a_folder_that_it_did_not_make(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "bad.png").write_text("no image")
    assert run(*TINY, "--data.root", tmp_path / "nothing_here", "--output", tmp_path / "mine")[0] == 2
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_run_in_the_folder_of_its_own_images_goes_on(run, tmp_path, capsys):
    for row in range(24):
        (tmp_path / f"{row}.png").write_bytes(encode(flat_image(row)))
    assert run(*TINY, "--data.root", ".", "--max_epochs=1") == (0, "")
    folder = next((tmp_path / "runs").glob("*/version_0"))
    assert (folder / "images" / "targets.png").exists()
    assert run("--resume", folder, "--max_epochs=2") == (0, "")
    assert len(FolderSource(tmp_path)) == 24


def test_environment_says_what_each_start_was_made_with(run, tmp_path):
    run(*TINY, "--max_epochs=1", "--output", tmp_path / "run", "--seed_everything=3")
    run("--resume", tmp_path / "run", "--max_epochs=2")
    first, second = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert first["packages"]["torch"] == importlib.metadata.version("torch")
    git = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    assert first["git"]["commit"] == subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    assert (first["seed"], first["data"]["num_images"]) == (3, 24)
    assert first["data"] == second["data"]
    assert "--seed_everything=3" in first["command"]
    assert "--resume" in second["command"]
