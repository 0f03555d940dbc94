"""The trained run that comes with the package."""

import json
import re
import shutil

import pytest
from programs import call, refusal

from glo_lightning.explore.exported import SHIPPED, find_run
from glo_lightning.module import GLO

FACES = SHIPPED / "faces"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_samples_at_once_and_the_package_stays_as_it_is(tmp_path):
    before = {file: file.stat().st_mtime_ns for file in FACES.rglob("*")}
    status, output, errors = call("sample", "faces", "--num=2", "--accelerator=cpu")
    assert (status, errors) == (0, [])
    assert "fitting" not in output
    assert (tmp_path / "runs" / "faces" / "explore" / "samples.png").is_file()
    assert {file: file.stat().st_mtime_ns for file in FACES.rglob("*")} == before


def test_a_copy_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "runs").touch()
    assert refusal("sample", "faces").startswith("run faces: cannot be copied to runs/faces (")


def test_it_has_five_megabytes():
    assert sum(file.stat().st_size for file in FACES.rglob("*")) <= 5e6


def test_ones_own_run_of_that_name_comes_first(tiny_run, tmp_path):
    (tmp_path / "faces").mkdir()  # images, say
    assert find_run("faces") == find_run("faces").relative_to(".")
    assert find_run("faces").parts[0] == "runs"
    for wrong, remedy in (("runs", "itself. Did you mean runs/faces?"), ("face", "Did you mean faces?")):
        assert refusal("sample", wrong).endswith(remedy)
    shutil.rmtree("faces")
    shutil.copytree(tiny_run, "faces")
    assert find_run("faces").parts == ("faces",)


def test_it_is_pretrained():
    assert GLO.from_pretrained("faces").latents.num_embeddings == 2048


@pytest.mark.slow
def test_the_figures_of_its_card_are_measured_again(tmp_path):
    status, _, errors = call("evaluate", "faces", "--num=64", "--steps=2", "--json=e.json")
    assert status == 0, errors
    (psnr,) = re.findall(r"PSNR of 2048 training images \| ([\d.]+) dB", (FACES / "README.md").read_text())
    assert json.loads((tmp_path / "e.json").read_text())["train_all"]["psnr"] == pytest.approx(float(psnr), abs=0.05)
