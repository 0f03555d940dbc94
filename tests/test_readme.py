"""Every command of the README starts, shortened where it trains."""

import re
import runpy
import shlex
import shutil
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, encode, flat_image, write_lmdb

from glo_lightning.explore.priors import IMLE, PRIORS

README = (REPOSITORY / "README.md").read_text()
COMMANDS = [
    shlex.split(command)
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    for command in line.split("&&")
]


def test_the_readmes_commands_train_build_and_resume(run, tmp_path, monkeypatch):
    records = {b"%040x" % row: encode(flat_image(row)) for row in range(520)}
    write_lmdb(tmp_path / "lsun" / "bedroom_train_lmdb", records)
    (tmp_path / "my_photos").mkdir()
    for row in range(110):
        (tmp_path / "my_photos" / f"{row}.png").write_bytes(encode(flat_image(row)))
    (tmp_path / "mask.png").write_bytes(encode(np.arange(64 * 64).reshape(64, 64) % 64 > 20))
    encoding = ["--steps=2", "--starts", "mean"]
    quicker = {"encode.py": encoding, "evaluate.py": [*encoding, "--seconds=0.1", "--seeds=1"]}
    shorter = ["--max_epochs=1", "--model.width=4", "--accelerator=cpu", "--enable_progress_bar=false"]
    monkeypatch.setitem(PRIORS, "imle", lambda: IMLE(rounds=2))
    trained = 0
    for program, *arguments in COMMANDS:
        if program != "python":
            assert program in ("pip", "pytest", "tensorboard")
            continue
        arguments = [str(tmp_path / "lsun") if word == "$LSUN_DIR" else word for word in arguments]
        arguments = [
            str(REPOSITORY / word) if word.startswith(("configs/", "scripts/")) else word for word in arguments
        ]
        if arguments[0].endswith("train.py"):
            number = 520 if "d512" in " ".join(arguments) else 110 if "my_lmdb" in arguments else 256
            shorter_data = [] if "--resume" in arguments else [f"--data.num_samples={number}"]
            assert run(*arguments[1:], *shorter, *shorter_data)[0] == 0
            trained += 1
            if arguments == [str(REPOSITORY / "scripts" / "train.py")]:
                # the commands on the trained showcase run on this one, which has fewer images
                shutil.copytree(tmp_path / "runs/quickstart/version_0", tmp_path / "runs/showcase/version_0")
        else:
            # indices of images that the shorter run has not
            arguments = [str(int(word) % 256) if word.isdigit() and int(word) > 256 else word for word in arguments]
            arguments += quicker.get(arguments[0].rpartition("/")[2], [])
            monkeypatch.setattr(sys, "argv", arguments)
            runpy.run_path(arguments[0], run_name="__main__")
    assert trained == 11  # the default, six recipes, one on photos, two that resume, one that holds images out


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*smaller than the logging interval.*")
def test_the_readmes_python_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (8, 3, 64, 64)
    assert names["images"].abs().max() <= 1


def test_the_readme_shows_files_that_are_there():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPOSITORY / path).exists(), path
