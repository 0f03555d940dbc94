import importlib.metadata
import json
import subprocess

from conftest import REPOSITORY, TINY

RUN = (*TINY, "--data.num_samples=40", "--data.batch_size=4", "--max_epochs=2", "--log_every_n_steps=1")


def test_environment_says_what_each_start_was_made_with(run, tmp_path):
    run(*RUN, "--max_epochs=1", "--output", tmp_path / "run", "--seed_everything=3")
    run("--resume", tmp_path / "run", "--max_epochs=2")
    first, second = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert first["packages"]["torch"] == importlib.metadata.version("torch")
    git = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    assert first["git"]["commit"] == subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    assert (first["seed"], first["data"]["num_images"]) == (3, 40)
    assert first["data"] == second["data"]
    assert "--seed_everything=3" in first["command"]
    assert "--resume" in second["command"]
