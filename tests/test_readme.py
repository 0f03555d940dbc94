"""The README's commands run, shortened where they train, and those of the studies' pages are understood."""

import argparse
import os
import re
import runpy
import shlex
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, encode, flat_image, train, write_lmdb
from image_sets import write_mnist

import glo_lightning
from glo_lightning.data import LSUNDataModule
from glo_lightning.explore.interactive import InteractiveRun
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.prior import PRIORS

README, PAGE = REPOSITORY / "README.md", REPOSITORY / "glo_lightning" / "browser" / "page" / "README.md"
DATA = REPOSITORY / "glo_lightning" / "data" / "README.md"
TRAINING_PAGE = REPOSITORY / "glo_lightning" / "training" / "README.md"
RECIPES = REPOSITORY / "configs" / "README.md"
PYTHON = REPOSITORY / "glo_lightning" / "README.md"
PAGES = [PAGE, DATA, TRAINING_PAGE, RECIPES, PYTHON, REPOSITORY / "scripts" / "README.md"]
PAGES += [REPOSITORY / ".github" / name for name in ("QUESTIONS.md", "CONTRIBUTING.md")]
STUDIES = sorted((REPOSITORY / "scripts" / "studies").rglob("README.md"))


def commands_of(readme: Path) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", readme.read_text(), re.DOTALL)
    return [shlex.split(command) for block in blocks for line in block.splitlines() for command in line.split("&&")]


TRAINING = ("--model.generator.width=4", "--accelerator=cpu", "--enable_progress_bar=false")
SHORTER = {
    "evaluate.py": ("--steps=2", "--starts", "mean", "--num=8"),
    "encoder.py": ("--num=4", "--seconds=1"),
    "inverse_problems.py": ("--num=2", "--steps=2"),
}
ALL = [command for page in (README, *STUDIES) for command in commands_of(page)]
ALL += commands_of(TRAINING_PAGE)[1:2]  # test_processes.py runs the others
COMMANDS = [command for command in ALL if "python" in command[:2]]  # the first word may be PYTHONPATH=...
# The other studies' programs have tests of their own, which run them.
RUN = [command for command in COMMANDS if command in commands_of(README) or "sample.py" in command[2]]
RUN += [next(command for command in COMMANDS if name in command[1]) for name in ("encoder.py", "inverse_problems.py")]
UNDERSTOOD = [command for command in COMMANDS if command not in RUN]


class UnderstoodError(Exception):
    """A program has taken its arguments."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """What the READMEs' commands read, small: LMDBs, photographs, and runs where the commands look for them."""
    folder = tmp_path_factory.mktemp("inputs")
    records = {b"%040x" % row: encode(flat_image(row)) for row in range(110)}
    for name in ("lsun/bedroom_train_lmdb", "lsun4k", "emoji", "faces", "faces100k", "moved"):
        write_lmdb(folder / name, records)
    (folder / "my_photos").mkdir()
    for row in range(8):
        (folder / "my_photos" / f"{row}.png").write_bytes(encode(flat_image(row)))
    write_mnist(folder / "mnist")
    flags = ("--data.num_samples=128", "--data.holdout=16", "--model.latent_dim=32", "--max_epochs=1")
    trained = train(folder / "runs" / "quickstart" / "version_0", *flags)
    for name in ("default", "skips"):
        shutil.copytree(trained, folder / "runs" / name)
    return folder


@pytest.fixture
def workplace(inputs, tmp_path, monkeypatch):
    """A folder with all inputs."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program_of(command: list[str], monkeypatch) -> tuple[str, list[str]]:
    """The program and its arguments; its folders are where Python looks for modules, as they are for the shell."""
    script, *arguments = command[command.index("python") + 1 :]
    for variable in command[: command.index("python")]:
        monkeypatch.syspath_prepend(str(REPOSITORY / variable.removeprefix("PYTHONPATH=")))
    monkeypatch.syspath_prepend(str((REPOSITORY / script).parent))
    return script, [str(REPOSITORY / word) if word.startswith("configs/") else word for word in arguments]


@pytest.mark.parametrize("command", RUN, ids=lambda command: " ".join(command)[:90])
def test_a_command_of_the_readme_runs(command, run, workplace, monkeypatch):
    script, arguments = program_of(command, monkeypatch)
    if script == "scripts/train.py":
        arguments = [str(workplace / "lsun") if word == "$LSUN_DIR" else word for word in arguments]
        short = ["--max_epochs=2"]
        if "--resume" not in arguments:
            number, latent_dim = (8, 64) if "my_photos" in arguments else (110, 3)  # the folder's codes have places
            short = [f"--data.num_samples={number}", "--data.holdout=4", "--data.image_size=32"]
            short += [f"--model.latent_dim={latent_dim}", "--max_epochs=1"]
        assert run(*arguments, *TRAINING, *short) == (0, "")
        return
    monkeypatch.setitem(PRIORS, "flow", lambda: Flow(steps=10, width=8, blocks=1))
    for limit in ("priors.flow.MIN_CODES", "explore.flows.MIN_LABELLED"):
        monkeypatch.setattr(f"glo_lightning.{limit}", 1)
    name = Path(script).name
    monkeypatch.setattr(sys, "argv", [name, *arguments, *SHORTER.get(name, ())])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.15 deprecates TorchScript
        before = set(os.listdir())
        runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        assert set(os.listdir()) == before or command not in commands_of(README)  # all lies in the run's folder


@pytest.mark.parametrize("command", UNDERSTOOD, ids=lambda command: " ".join(command)[:90])
def test_a_command_of_a_studys_page_is_understood(command, run, workplace, monkeypatch):
    script, arguments = program_of(command, monkeypatch)
    if script == "scripts/train.py":
        assert run(*arguments, "--accelerator=cpu", "--print_config") == (0, "")
        return

    def understanding(parse):
        def understand(*arguments) -> None:
            parsed = parse(*arguments)  # ends the program where it does not understand
            assert not isinstance(parsed, tuple) or not parsed[1]
            raise UnderstoodError

        return understand

    names = ("parse_known_args",) if script == "scripts/benchmark.py" else ("parse_args", "parse_intermixed_args")
    for name in names:
        monkeypatch.setattr(argparse.ArgumentParser, name, understanding(getattr(argparse.ArgumentParser, name)))
    monkeypatch.setattr(sys, "argv", [Path(script).name, *arguments])
    with pytest.raises(UnderstoodError):
        runpy.run_path(str(REPOSITORY / script), run_name="__main__")


def test_the_other_commands_are_those_that_ci_and_a_browser_run():
    assert {command[0] for command in ALL if command not in COMMANDS} == {"pip", "pytest", "tensorboard"}


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*smaller than the logging interval.*")
def test_the_readmes_python_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (8, 3, 64, 64)
    assert names["images"].abs().max() <= 1


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*smaller than the logging interval.*")
def test_the_python_pages_examples_run(workplace):
    names: dict = {}
    shutil.rmtree(workplace / "faces")  # there "faces" means the run that ships
    for code in re.findall(r"```python\n(.*?)```", PYTHON.read_text(), re.DOTALL):
        exec(code, names)
    assert names["images"].shape == (4, 3, 32, 32)
    assert names["codes"].shape == (4, 8)
    assert names["run"].images([0]).shape == (1, 3, 32, 32)
    assert names["samples"].images.shape == (24, 3, 32, 32)
    assert names["encoded"].codes.shape == (8, 32)
    assert Path("samples.png").exists()
    methods = {name for name, value in vars(InteractiveRun).items() if callable(value) and name[0] != "_"}
    text = PYTHON.read_text()
    assert not [name for name in methods if f"run.{name}(" not in text or f"`{name}(" not in text]
    assert not [name for name in glo_lightning.__all__ if f"`{name}`" not in text]


@pytest.mark.parametrize("readme", [README, *PAGES, *STUDIES], ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_a_readme_shows_files_and_headings_that_are_there(readme):
    for path, heading in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", readme.read_text()):
        target = readme.parent / path
        assert target.exists(), path
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles]


def test_the_source_that_the_page_on_images_shows_is_one(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", DATA.read_text(), re.DOTALL)
    volume = np.random.default_rng(0).integers(0, 256, (6, 16, 16), np.uint8)
    np.savez(tmp_path / "scan.npz", volume=volume)
    names: dict = {"numpy": np, "torch": torch, "os": os}
    exec(code, names)
    data = LSUNDataModule(source=names["Source"](tmp_path / "scan.npz"), image_size=16)
    assert np.array_equal(data.dataset.images[:, 0], volume)
    assert data.attributes.rows(["half=upper"]).tolist() == [0, 1, 2]
