"""Every command of the README and of the studies' pages starts, shortened where it trains: one test a command."""

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
from conftest import REPOSITORY, encode, flat_image, write_lmdb

from glo_lightning.data import LSUNDataModule
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


ALL = [command for page in (README, *STUDIES) for command in commands_of(page)]
ALL += commands_of(TRAINING_PAGE)[1:2]  # test_processes.py runs the others
COMMANDS = [command for command in ALL if "python" in command[:2]]  # the first word may be PYTHONPATH=...
TRAINING = ("--model.generator.width=4", "--accelerator=cpu", "--enable_progress_bar=false")
SHORTER = {
    "benchmark.py": (
        *("--rows=64", "--batch_size=8", "--batches=4", "--rounds=1", "--workers=1", "--width=4", "--latent_dim=6"),
        *("--n_pca=64", "--table_rows=3000", "--encoded=1"),
    ),
    "recipes.py": ("--root", "my_lmdb", "--epochs=1", "--seeds=1", "--width=2", "--only", "batch 128"),
    "codes.py": (
        *("--root", "my_lmdb", "--num_samples=40", "--holdout=8", "--image_size=32", "--width=2", "--dims=3"),
        *("--epochs=1", "--seeds=1", "--only", "pca, frozen", "--encode_steps=2"),
    ),
    "baselines.py": ("--seconds=0.05", "--seeds=1", "--steps=2", "--num=8"),
    "encoder.py": ("--num=4", "--seconds=3"),
    "inverse_problems.py": ("--num=2", "--steps=2"),
    "decoding.py": ("--num=20", "--rounds=1"),
    "evaluate.py": ("--steps=2", "--starts", "mean", "--num=8"),
    "compare_priors.py": (
        *("--num_images=60", "--latent_dim=4", "--max_epochs=1", "--seeds=1", "--temperatures=1"),
        *("--priors", "diagonal", "other_priors.KernelDensity"),
    ),
}
ELSEWHERE = ("make_faces.py", "attribute_classifier.py", "face_metrics.py", "paper_scale.py")  # have tests of their own
FEATURES = {"classifier_a.pt", "classifier_b.pt", "features.pt"}


class UnderstoodError(Exception):
    """A program has taken its arguments."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """What the READMEs' commands read, small: LMDBs, photographs, MNIST's four files."""
    folder = tmp_path_factory.mktemp("inputs")
    records = {b"%040x" % row: encode(flat_image(row)) for row in range(110)}
    sets = ("lsun/bedroom_train_lmdb", "my_lmdb", "lsun4k", "emoji", "emoji15k", "faces", "faces100k", "moved")
    for name in (*sets, "mnist_run/lmdb"):
        write_lmdb(folder / name, records)
    (folder / "my_photos").mkdir()
    for row in range(110):
        (folder / "my_photos" / f"{row}.png").write_bytes(encode(flat_image(row)))
    (folder / "mnist").mkdir()
    random = np.random.default_rng(0)
    for part in ("train", "t10k"):
        labels, images = random.integers(0, 10, 110), random.integers(0, 200, (110, 28, 28))
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (folder / "mnist" / f"{part}-{name}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    return folder


@pytest.fixture(scope="module")
def trained() -> dict[str, Path]:
    return {}


@pytest.fixture
def workplace(inputs, trained, run, tmp_path, tmp_path_factory):
    """A folder with all inputs, and short runs where the commands look for them."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    if not trained:
        trained["run"] = tmp_path_factory.mktemp("trained") / "run"
        flags = (
            "--data.num_samples=128",
            "--data.holdout=16",
            "--data.image_size=32",
            "--model.latent_dim=32",
            "--max_epochs=1",
            "--output",
            trained["run"],
        )
        assert run(*TRAINING, *flags)[0] == 0
    runs = ("quickstart/version_0", "holdout", "holdout_512", "small", "yardstick", "skips", "default")
    for name in runs:
        shutil.copytree(trained["run"], tmp_path / "runs" / name)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(command)[:90] for command in COMMANDS])
def test_a_command_of_the_readmes_starts(command, run, workplace, monkeypatch):
    script, *arguments = command[command.index("python") + 1 :]
    for variable in command[: command.index("python")]:
        monkeypatch.syspath_prepend(str(REPOSITORY / variable.removeprefix("PYTHONPATH=")))
    name = Path(script).name
    arguments = [str(workplace / "lsun") if word == "$LSUN_DIR" else word for word in arguments]
    arguments = [str(REPOSITORY / word) if word.startswith("configs/") else word for word in arguments]
    if name == "train.py":
        if "--output" in arguments:  # not into the run that is there for the commands after it
            arguments[arguments.index("--output") + 1] = "elsewhere"
        short = ["--max_epochs=2" if "--resume" in arguments else "--max_epochs=1"]
        if "--resume" not in arguments:
            own_data = "--data.root" in arguments
            if "--data.holdout" in arguments:  # 110 images
                arguments[arguments.index("--data.holdout") + 1] = "20"
            short += [f"--data.num_samples={110 if own_data else 256}", "--model.latent_dim=32", "--data.image_size=32"]
        assert run(*arguments, *TRAINING, *short) == (0, "")
        return
    arguments = [str(int(word) % 100) if word.isdigit() and int(word) > 200 else word for word in arguments]
    monkeypatch.setitem(PRIORS, "flow", lambda: Flow(steps=10, width=8, blocks=1))
    for limit in ("priors.flow.MIN_CODES", "explore.flows.MIN_LABELLED"):
        monkeypatch.setattr(f"glo_lightning.{limit}", 1)
    monkeypatch.syspath_prepend(str((REPOSITORY / script).parent))
    monkeypatch.setattr(sys, "argv", [name, *arguments, *SHORTER.get(name, ())])
    if name in ELSEWHERE or FEATURES & set(arguments):
        parse = argparse.ArgumentParser.parse_args

        def understand(parser: argparse.ArgumentParser) -> None:
            parse(parser)
            raise UnderstoodError

        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", understand)
        with pytest.raises(UnderstoodError):
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.15 deprecates TorchScript
        module = runpy.run_path(str(REPOSITORY / script), run_name="a_script")
        module["main"]()


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
    for code in re.findall(r"```python\n(.*?)```", PYTHON.read_text(), re.DOTALL):
        exec(code, names)
    assert names["images"].shape == (4, 3, 32, 32)
    assert names["codes"].shape == (4, 8)
    assert names["run"].images([0]).shape == (1, 3, 32, 32)


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
