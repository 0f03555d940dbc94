"""sweep.py: Optuna's trials, and seeds. The runs are played: their PSNR is a function of their flags."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from programs import call, refusal

from glo_lightning.locks import Lock

optuna = pytest.importorskip("optuna", reason="pip install -e '.[sweep]'")

SPACE = ("--search", "model.latent_dim=8,32", "model.optimizer.lr=log(0.01, 1)")


@pytest.fixture
def played(monkeypatch, tmp_path):
    """The command lines of the runs that were started; ``played.status`` ends the next one with that status."""

    class Played(list):
        status = 0

    class Run:
        def __init__(self, command, **_):
            played.append(command[4:])
            flag, folder = command[-2:]
            self.flags = dict(word.split("=", 1) for word in command[4:] if "=" in word)
            self.folder, self.epoch, self.returncode = Path(folder), 0, None
            assert flag == ("--resume" if (self.folder / "config.yaml").exists() else "--output")
            self.folder.mkdir(exist_ok=True)
            (self.folder / "config.yaml").write_text(json.dumps({**self.flags, "data": {"holdout": 8}}))

        def poll(self):
            if self.epoch == 3:
                self.returncode = 0
            if self.returncode is None:
                self.epoch += 1
                psnr = float(self.flags.get("--model.latent_dim", 0)) + float(self.flags.get("--seed_everything", 0))
                metrics = {"epoch": self.epoch, "val/psnr": psnr + self.epoch, "train/loss_epoch": 1 / self.epoch}
                if self.epoch == 1:  # is not validated
                    del metrics["val/psnr"]
                (self.folder / "metrics.json").write_text(json.dumps(metrics))
            if played.status and self.epoch == 2:
                self.returncode, played.status = played.status, 0
            return self.returncode

        def terminate(self):
            self.returncode = 128 + signal.SIGTERM

    played = Played()
    monkeypatch.setattr(subprocess, "Popen", Run)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.chdir(tmp_path)
    return played


def study():
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{Path.cwd()}/runs/sweep/study.db")


def test_the_best_trial_is_a_recipe(played):
    status, output, _ = call("sweep", "--trials", 6, *SPACE, "--max_epochs=3")
    assert status == 0
    best = json.loads(Path("runs/sweep/best.yaml").read_text())
    assert best["--model.latent_dim"] == "32"
    assert study().best_value == 35
    assert all("--max_epochs=3" in command for command in played)
    assert "best: runs/sweep/trial_" in output


def test_poor_trials_are_stopped_early(played):
    call("sweep", "--trials", 12, *SPACE)
    states = [trial.state.name for trial in study().trials]
    assert "PRUNED" in states
    assert all(trial.params["model.latent_dim"] == 8 for trial in study().trials if trial.state.name == "PRUNED")


def test_the_same_command_runs_the_trials_that_are_missing(played):
    call("sweep", "--trials", 2, *SPACE)
    call("sweep", "--trials", 3, *SPACE)
    assert len(played) == 3


def test_a_trial_that_was_cut_off_is_resumed(played):
    """As by a kill of the sweep: the trial is left running."""
    call("sweep", "--trials", 1, *SPACE)
    trial = study().ask()
    params = {"model.latent_dim": trial.suggest_categorical("model.latent_dim", [8, 32])}
    params["model.optimizer.lr"] = trial.suggest_float("model.optimizer.lr", 0.01, 1, log=True)
    folder = Path("runs/sweep/trial_001")
    trial.set_user_attr("folder", str(folder))
    folder.mkdir()
    (folder / "config.yaml").write_text("{}")
    call("sweep", "--trials", 2, *SPACE)
    assert played[-1] == ["--resume", str(folder)]
    states = [trial.state.name for trial in study().trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study().trials[-1].params == params


def test_two_sweeps_in_one_folder_are_refused(played):
    Path("runs/sweep").mkdir(parents=True)
    lock = Lock(Path("runs/sweep/.lock"))
    assert lock.acquire()
    assert refusal("sweep", *SPACE).startswith("--output runs/sweep: is in use by process")
    lock.release()
    assert not played


def test_a_run_that_fails_is_told(played):
    played.status = 1
    assert refusal("sweep", "--trials", 1, *SPACE) == (
        "--trials 1: a run ended with status 1, see runs/sweep/trial_000.log."
    )
    assert [trial.state.name for trial in study().trials] == ["FAIL"]


def test_seeds_have_a_mean_and_a_spread(played):
    status, output, _ = call("sweep", "--seeds", 3, "--max_epochs=3")
    assert status == 0
    assert "val/psnr 4 ± 1 (3, 4, 5)" in output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "--seeds 0: Give either --seeds or --search."),
        (("--search", "foo"), "--search foo: is not FLAG=VALUES."),
        (("--search", "a=log(0,1)"), "--search a=log(0,1): is no range."),
        (("--search", "a=log(3)"), "--search a=log(3): is no range. Give two bounds"),
        (("--search", "a=int(1,x)"), "--search a=int(1,x): has bounds that are no numbers."),
        (("--search", "a=1,2", "--trials=0"), "--trials 0: must be 1 or more"),
    ],
)
def test_wrong_input_ends_in_one_line(played, arguments, line):
    assert refusal("sweep", *arguments).startswith(line)
    assert not Path("runs").exists()


def test_a_flag_that_does_not_exist_ends_in_the_runs_own_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal("sweep", "--data.holdout=8", "--search", "model.latent_dm=8,16")
    assert line.endswith("there is no such argument; did you mean --model.latent_dim?")
