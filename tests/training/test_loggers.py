"""Loggers: each of Lightning's gets curves, pictures and hyperparameters, and a resumed run continues in it."""

import csv
import json
import os
import runpy
import struct
import subprocess
import sys
import time
import warnings

import pytest
import yaml
from conftest import REPOSITORY, TINY, train
from jsonargparse import Namespace
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from glo_lightning.training.exits import translate
from glo_lightning.training.loggers import complete_loggers

wandb = pytest.importorskip("wandb", reason="pip install -e '.[loggers]'")
mlflow = pytest.importorskip("mlflow", reason="pip install -e '.[loggers]'")
pytestmark = pytest.mark.filterwarnings("default")  # of the loggers' own packages

LOGGERS = [f"--trainer.logger+={name}" for name in ("WandbLogger", "MLFlowLogger", "CSVLogger", "TensorBoardLogger")]
EPOCH_ENDS = [2, 5]  # two epochs of three batches


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A run in four loggers, stopped after its first epoch and resumed."""
    folder = tmp_path_factory.mktemp("logged") / "run"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")  # of the loggers' own packages
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        train(folder, *LOGGERS, "--max_epochs=1", "--prior=gaussian")
        wandb.finish()  # as the end of the program does
        time.sleep(1)  # W&B names an offline folder by the second
        resume(folder, "--max_epochs=2")
        wandb.finish()
    return folder


def resume(folder, *flags):
    from glo_lightning.training.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", "--resume", str(folder), *flags])
        main(REPOSITORY / "configs" / "quickstart.yaml")


def wandb_records(file):
    """The records of W&B's offline file, which has the format of LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, part = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a header does not cross blocks
            at += 32768 - at % 32768
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(part)
            part = b""


def test_wandb_has_curves_pictures_and_hyperparameters_and_one_id(logged):
    files = sorted((logged / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2  # two starts, which `wandb sync` makes one run
    run_id = json.loads((logged / "loggers.json").read_text())["WandbLogger"]["id"]
    for file, first_epoch_end in zip(files, EPOCH_ENDS, strict=True):
        records = list(wandb_records(file))
        (run,) = (record.run for record in records if record.HasField("run"))
        assert (run.run_id, run.project, run.display_name) == (run_id, "quickstart", "run")
        config = {item.key: item.value_json for record in records for item in record.run.config.update}
        config |= {item.key: item.value_json for record in records for item in record.config.update}
        assert config["latent_dim"] == "6"
        history = [{i.key or "/".join(i.nested_key): i.value_json for i in r.history.item} for r in records]
        assert {"reconstructions", "samples"} <= {key.split("/")[0] for row in history for key in row}
        steps = [int(row["trainer/global_step"]) for row in history if "train/loss_epoch" in row]
        assert steps == [first_epoch_end]


def test_mlflow_has_one_run_with_curves_pictures_and_hyperparameters(logged):
    client = mlflow.MlflowClient(f"sqlite:///{logged}/mlflow.db")
    experiment = client.get_experiment_by_name("quickstart")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert run.data.params["latent_dim"] == "6"
    history = client.get_metric_history(run.info.run_id, "train/loss_epoch")
    assert [metric.step for metric in history] == EPOCH_ENDS
    pictures = {file.path.split("/")[1].split("+")[0] for file in client.list_artifacts(run.info.run_id, "images")}
    assert {"targets", "reconstructions", "samples"} <= pictures


def test_csv_keeps_its_rows_when_the_run_is_resumed(logged):
    with open(logged / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss_epoch"]]
    assert [int(row["step"]) for row in rows] == EPOCH_ENDS
    assert "latent_dim: 6" in (logged / "hparams.yaml").read_text()


def test_tensorboard_has_all_of_the_run(logged):
    accumulator = EventAccumulator(str(logged), size_guidance={"images": 0})
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("train/loss_epoch")] == EPOCH_ENDS
    assert {"targets", "reconstructions", "samples", "samples/gaussian"} <= set(accumulator.Tags()["images"])


def test_the_configuration_repeats_the_run_elsewhere(logged):
    """Nothing of the folder is in it."""
    assert str(logged) not in (logged / "config.yaml").read_text()


def test_figures_of_the_last_epoch_are_a_file_for_programs(logged):
    metrics = json.loads((logged / "metrics.json").read_text())
    assert (metrics["epoch"], metrics["step"], metrics["num_images"]) == (2, 6, 24)
    with open(logged / "metrics.csv", newline="") as file:
        losses = [float(row["train/loss_epoch"]) for row in csv.DictReader(file) if row["train/loss_epoch"]]
    assert metrics["train/loss_epoch"] == pytest.approx(losses[-1])
    assert metrics["seconds"] > 0
    assert metrics["peak_memory_bytes"] > 1e7


@pytest.mark.parametrize(("given", "waits"), [(None, "30"), ("5", "5")])
def test_wandb_waits_half_a_minute_unless_told_otherwise(monkeypatch, tmp_path, given, waits):
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", given or "")
    if given is None:
        monkeypatch.delenv("WANDB_INIT_TIMEOUT")
    complete_loggers(Namespace(class_path="my.WandbLogger"), tmp_path, "recipe", None)
    assert os.environ["WANDB_INIT_TIMEOUT"] == waits


def test_a_network_that_is_missing_is_one_line_that_names_the_mode_without(tmp_path):
    file = tmp_path / "wandb" / "init.py"
    file.parent.mkdir()
    file.write_text("raise OSError('Timed out while retrying: no such host\\nConsider increasing it:\\n  init()')")
    with pytest.raises(OSError, match="Timed out") as caught:
        runpy.run_path(str(file))
    line = "logger wandb: Timed out while retrying: no such host. Or set WANDB_MODE=offline, and run wandb sync later."
    assert str(translate(caught.value)) == line


def test_an_account_that_is_missing_is_one_line(tmp_path):
    """In a program of its own: W&B keeps what it has once read of its settings."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "WANDB_SILENT": "true", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, REPOSITORY / "scripts" / "train.py", *TINY, "--trainer.logger=WandbLogger"]
    ended = subprocess.run(
        [*command, "--output", tmp_path / "run"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("--logger wandb: No API key configured")
    assert line.endswith("Or set WANDB_MODE=offline, and run wandb sync later.")
    assert not (tmp_path / "run").exists()


def test_the_sweep_for_wandb_calls_train_py(run, monkeypatch):
    """The command as W&B's agent makes it, with the first value of each parameter."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((REPOSITORY / "scripts" / "wandb_sweep.yaml").read_text())
    spaces = sweep["parameters"].items()
    values = {name: {"value": space["values"][0] if "values" in space else space["min"]} for name, space in spaces}
    program, flags = sweep["command"][:3], create_sweep_command(sweep["command"])[3:]
    assert (program, sweep["program"]) == (["${env}", "python", "${program}"], "scripts/train.py")
    at = flags.index("${args}")
    flags[at : at + 1] = create_sweep_command_args({"args": values})["args"]
    monkeypatch.chdir(REPOSITORY)
    assert run(*flags, "--print_config") == (0, "")
    config = yaml.safe_load(run.output)
    optimizer = config["model"]["optimizer"]
    assert (config["model"]["latent_dim"], optimizer["init_args"]["lr"]) == (32, 0.0003)
    assert optimizer["class_path"].endswith("AdamW")
    assert sweep["metric"]["name"] == "val/psnr"
    assert config["data"]["holdout"] > 0
