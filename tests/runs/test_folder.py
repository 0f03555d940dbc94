import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY

CHECKPOINTS = ["best.ckpt", "last.ckpt", "previous.ckpt"]


def states_equal(first: Path, second: Path) -> bool:
    a, b = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (first, second))
    assert a["state_dict"].keys() == b["state_dict"].keys()
    same = all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    return same and (a["global_step"], a["epoch"]) == (b["global_step"], b["epoch"])


@pytest.fixture
def trained(run, tmp_path) -> Path:
    """A run of two epochs in three batches each."""
    assert run(*TINY, "--output", tmp_path / "trained", "--max_epochs", 2) == (0, "")
    return tmp_path / "trained"


def test_a_run_folder_holds_what_the_design_says(trained):
    files = {str(file.relative_to(trained)) for file in trained.rglob("*") if file.is_file()}
    (event_file,) = [file for file in files if file.startswith("events.out.tfevents.")]
    grids = [f"{tag}_epoch_{epoch:03d}" for tag in ("reconstructions", "samples") for epoch in range(2)]
    images = {f"images/{name}.png" for name in ("targets", *grids)}
    checkpoints = {f"checkpoints/{name}.ckpt" for name in ("last", "previous", "best")}
    assert files == {event_file, "config.yaml", "environment.json"} | images | checkpoints
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert not {"output", "resume", "ckpt_path", "config"} & config.keys()
    assert str(trained) not in (trained / "config.yaml").read_text()
    assert (config["data"]["batch_size"], config["model"]["schedule"]) == (8, "cosine")


def test_without_output_runs_are_numbered(run, tmp_path):
    for number in range(2):
        run(*TINY, "--max_epochs=1")
        assert (tmp_path / "runs" / "quickstart" / f"version_{number}" / "config.yaml").is_file()


def test_a_runs_config_repeats_it_elsewhere(run, trained, tmp_path):
    run("--config", trained / "config.yaml", "--output", tmp_path / "again")
    assert states_equal(trained, tmp_path / "again")


def test_a_moved_run_goes_on_in_its_new_place(run, trained, tmp_path):
    moved = tmp_path / "elsewhere" / "run"
    moved.parent.mkdir()
    shutil.copytree(trained, moved)
    shutil.rmtree(trained)
    run("--resume", moved, "--max_epochs=3")
    assert not trained.exists()
    assert sorted(file.name for file in (moved / "checkpoints").iterdir()) == CHECKPOINTS
    assert torch.load(moved / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 2
    assert yaml.safe_load((moved / "config.yaml").read_text())["trainer"]["max_epochs"] == 3


def test_a_full_disk_is_found_out_before_the_work(run, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    status, line = run(*TINY, "--output", tmp_path / "new" / "run")
    assert (status, line.split()[0]) == (2, "--output")
    assert not (tmp_path / "new").exists()
