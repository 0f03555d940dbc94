"""The command line, its errors, the run folder, and the life of a run: stop, resume, copy."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY, TINY, encode, flat_image, write_lmdb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from glo_lightning.cli import expand_arguments
from glo_lightning.module import GLO

CHECKPOINTS = ["best.ckpt", "last.ckpt", "previous.ckpt"]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


def states_equal(first: Path, second: Path) -> bool:
    a, b = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (first, second))
    assert a["state_dict"].keys() == b["state_dict"].keys()
    same = all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    return same and (a["global_step"], a["epoch"]) == (b["global_step"], b["epoch"])


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


@pytest.fixture
def trained(run, tmp_path) -> Path:
    """A run of two epochs in three batches each."""
    assert run(*TINY, "--output", tmp_path / "trained", "--max_epochs", 2) == (0, "")
    return tmp_path / "trained"


# ------------------------------------------------------------------------------------------------------- the run folder


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


def test_tensorboard_has_the_tags(trained):
    accumulator = events(trained)
    tags = accumulator.Tags()
    scalars = {"train/loss", "train/loss_epoch", "latents/norm_mean", "latents/moved", "train/images_per_second"}
    assert scalars | {"lr-SGD/generator", "lr-SGD/latents"} <= set(tags["scalars"])
    assert set(tags["images"]) == {"targets", "reconstructions", "samples"}
    assert [event.step for event in accumulator.Scalars("train/loss_epoch")] == [2, 5]
    for tag in ("reconstructions", "samples"):
        assert [event.step for event in accumulator.Images(tag)] == [2, 5]


def test_a_checkpoint_of_the_command_line_loads_bare(trained):
    model = GLO.load_from_checkpoint(trained / "checkpoints" / "last.ckpt")
    assert model.latents.weight.shape == (24, 6)
    assert model.hparams.num_images == 24


def test_last_is_the_newest_and_best_the_lowest(run, tmp_path):
    # at this rate the loss goes up again
    run(*TINY, "--output", tmp_path / "a", "--max_epochs=4", "--model.generator_lr=30", "--model.schedule=constant")
    losses = [event.value for event in events(tmp_path / "a").Scalars("train/loss_epoch")]
    checkpoints = {
        name: torch.load(tmp_path / "a" / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"]
        for name in ("last", "best")
    }
    assert checkpoints == {"last": 3, "best": losses.index(min(losses))}


def test_two_runs_with_one_seed_are_equal_and_another_seed_differs(run, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(*TINY, "--output", tmp_path / name, "--max_epochs=1", "--seed_everything", seed)
    assert states_equal(tmp_path / "a", tmp_path / "b")
    assert not states_equal(tmp_path / "a", tmp_path / "c")


def test_without_output_runs_are_numbered(run, tmp_path):
    for number in range(2):
        run(*TINY, "--max_epochs=1")
        assert (tmp_path / "runs" / "quickstart" / f"version_{number}" / "config.yaml").is_file()


def test_a_runs_config_repeats_it_elsewhere(run, trained, tmp_path):
    run("--config", trained / "config.yaml", "--output", tmp_path / "again")
    assert states_equal(trained, tmp_path / "again")


# --------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_resumed_run_is_the_one_that_was_never_stopped(run, tmp_path, monkeypatch, schedule):
    arguments = (*TINY, "--max_epochs=3", f"--model.schedule={schedule}", "--data.num_samples=25")
    run(*arguments, "--output", tmp_path / "whole")

    def stop(self, trainer, module):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("glo_lightning.callbacks.Throughput.on_train_epoch_start", stop, raising=True)
        assert run(*arguments, "--output", tmp_path / "cut")[0] == 130
    assert not (tmp_path / "cut" / "checkpoints").exists()
    with monkeypatch.context() as patch:
        patch.setattr(
            "glo_lightning.callbacks.Throughput.on_train_batch_end",
            lambda self, trainer, *_: stop(self, trainer, None) if trainer.global_step == 6 else None,
        )
        assert run("--resume", tmp_path / "cut")[0] == 130
    before = torch.load(tmp_path / "cut" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (before["epoch"], before["global_step"]) == (0, 4)
    run("--resume", tmp_path / "cut")
    assert states_equal(tmp_path / "whole", tmp_path / "cut")
    assert [event.step for event in events(tmp_path / "cut").Scalars("train/loss_epoch")] == [3, 7, 11]
    names = [sorted(p.name for p in (tmp_path / name / "images").iterdir()) for name in ("whole", "cut")]
    assert names[0] == names[1]


def test_ctrl_c_before_the_first_step_leaves_nothing_behind(run, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("glo_lightning.callbacks.pca_codes", stop)
    status, line = run(*TINY, "--output", tmp_path / "new" / "run")
    assert (status, line.split(";")[0]) == (130, "stopped before the first step")
    assert not (tmp_path / "new").exists()


def test_no_step_appears_twice_after_a_resume(run, tmp_path, monkeypatch):
    arguments = (*TINY, "--max_epochs=3", "--log_every_n_steps=1", "--output", tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(
            "glo_lightning.callbacks.Throughput.on_train_batch_end",
            lambda self, trainer, *_: os.kill(os.getpid(), signal.SIGINT) if trainer.global_step == 5 else None,
        )
        assert run(*arguments)[0] == 130
    run("--resume", tmp_path / "cut")
    # sorted, for TensorBoard may read the files of two runs in one second in either order
    assert sorted(event.step for event in events(tmp_path / "cut").Scalars("train/loss")) == list(range(9))


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


def test_a_finished_run_says_so(run, trained, monkeypatch):
    said = []
    monkeypatch.setattr("glo_lightning.cli.log.info", lambda message, *_: said.append(message))
    assert run("--resume", trained) == (0, "")
    assert "--max_epochs" in said[-1]


def test_a_longer_run_follows_the_schedule_of_the_new_length(run, trained, monkeypatch):
    said = []
    monkeypatch.setattr("glo_lightning.module.log.info", lambda message, *values: said.append(message % values))
    run("--resume", trained, "--max_epochs=4", "--log_every_n_steps=1")
    assert "new length of 12 batches (was 6) from batch 6" in said[-1]
    rates = [event.value for event in events(trained).Scalars("lr-SGD/generator")]
    assert rates[-6] == pytest.approx(0.5)  # half-way down the longer cosine
    assert rates[-6:] == sorted(rates[-6:], reverse=True)


def test_rates_given_at_resume_win_over_the_checkpoints(run, trained):
    given = ("--model.generator_lr=0.25", "--model.weight_decay=0.125", "--model.schedule=constant")
    run("--resume", trained, "--max_epochs=3", *given)
    checkpoint = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    generator = checkpoint["optimizer_states"][0]["param_groups"][0]
    assert (generator["lr"], generator["weight_decay"]) == (0.25, 0.125)


def test_ckpt_path_goes_on_in_a_folder_of_its_own(run, trained, tmp_path):
    before = (trained / "checkpoints" / "last.ckpt").read_bytes()
    ckpt = trained / "checkpoints" / "last.ckpt"
    run(*TINY, "--ckpt_path", ckpt, "--max_epochs=3", "--output", tmp_path / "other")
    assert torch.load(tmp_path / "other" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 2
    assert ckpt.read_bytes() == before


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--data.root", "other"), ("--data.num_samples", 23), ("--model.latent_dim", 5), ("--model.width", 8)],
)
def test_resuming_with_other_data_or_another_shape_is_refused(run, trained, tmp_path, flag, value):
    if value == "other":
        value = write_lmdb(tmp_path / "other", {b"%02x" % row: encode(flat_image(row)) for row in range(24)})
    before = (trained / "config.yaml").read_bytes()
    status, line = run("--resume", trained, "--max_epochs=3", flag, value)
    assert (status, line.split()[0]) == (2, "--data.num_images" if flag.endswith("samples") else flag) or (
        flag.endswith("samples") and line.startswith("--model.num_images 23")
    )
    assert (trained / "config.yaml").read_bytes() == before


# -------------------------------------------------------------------------------------------------------- several flags


def test_trainer_arguments_work_with_and_without_prefix():
    default = Path("quickstart.yaml")
    arguments = ["--max_epochs", "5", "--precision=bf16-mixed", "--trainer.devices=2", "--data.root", "max_epochs"]
    assert expand_arguments(arguments, default) == [
        "--config=quickstart.yaml",
        "--trainer.max_epochs", "5", "--trainer.precision=bf16-mixed", "--trainer.devices=2",
        "--data.root", "max_epochs",
    ]  # fmt: skip
    assert expand_arguments(["--config", "a.yaml"], default) == ["--config", "a.yaml"]


@pytest.mark.parametrize("value", ["auto", "true", "false"])
def test_device_resident_is_heard_from_flags_and_files(run, tmp_path, value):
    (tmp_path / "given.yaml").write_text(f"data: {{device_resident: {value}}}")
    run("--config", tmp_path / "given.yaml", *TINY, "--max_epochs=1", "--output", tmp_path / "file")
    without_quickstart = ("--model.schedule=constant", "--model.whiten=false")
    without_quickstart += ("--model.l2_weight=0", "--model.weight_decay=0")
    given = f"--data.device_resident={value}"
    run(*TINY, "--max_epochs=1", given, *without_quickstart, "--output", tmp_path / "flag")
    assert states_equal(tmp_path / "file", tmp_path / "flag")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_every_config_trains(run, config, tmp_path):
    shorter = ("--data.num_samples=256", "--model.width=4", "--max_epochs=1", "--enable_progress_bar=false")
    small = ("--data.image_size=32", "--model.latent_dim=32", "--data.num_workers=0")
    assert run("--config", config, *shorter, *small, "--output", tmp_path / "a") == (0, "")
    expected = yaml.safe_load(config.read_text())["model"]
    got = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["model"]
    assert {k: v for k, v in expected.items() if k != "latent_dim"}.items() <= got.items()


def test_nothing_of_quickstart_leaks_into_another_config(run, tmp_path):
    (tmp_path / "empty.yaml").write_text("{}")
    run("--config", tmp_path / "empty.yaml", *TINY, "--max_epochs=1", "--output", tmp_path / "a")
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert config["model"]["schedule"] == "constant"


HEARD = ["--fast_dev_run=true", "--barebones=true", "--logger=false", "--enable_checkpointing=false"]
HEARD += ["--precision=bf16-mixed", "--limit_train_batches=2 --log_every_n_steps=1", "--gradient_clip_val=0.5"]
HEARD += ["--gradient_clip_val=0.5 --gradient_clip_algorithm=value"]
HEARD += ["--accumulate_grad_batches=3", "--max_steps=2"]


@pytest.mark.parametrize("arguments", HEARD)
@pytest.mark.filterwarnings("ignore:.*barebones.*", "ignore:.*max_epochs.*")
def test_trainer_arguments_are_heard(run, tmp_path, arguments):
    quiet = [flag for flag in TINY if "progress" not in flag] if "barebones" in arguments else TINY
    assert run(*quiet, "--max_epochs=1", "--output", tmp_path / "a", *arguments.split()) == (0, "")


@pytest.mark.parametrize(("optimizer", "epochs"), [("sgd", 2), ("adam", 1)])
def test_two_processes_train_what_one_does(tmp_path, optimizer, epochs):
    def train(output, *arguments):
        command = [sys.executable, REPOSITORY / "scripts" / "train.py", *TINY, "--output", output]
        # one batch an epoch, and a generator that does not move: BatchNorm apart, the codes' steps are exact
        subprocess.run([*command, *arguments], check=True, capture_output=True, cwd=tmp_path)
        return torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    flags = ("--model.generator_lr=0", "--data.num_samples=25", "--data.batch_size=25", "--sync_batchnorm=false")
    flags += (f"--model.latent_optimizer={optimizer}", f"--max_epochs={epochs}")
    two = train(tmp_path / "two", *flags, "--devices=2", "--strategy=ddp")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["two"]
    moved = (two["latents.weight"] - two["start"]).norm(dim=1)
    assert (moved > 0).all()
    one = train(tmp_path / "one", *flags)
    torch.testing.assert_close(two["start"], one["start"])
    # BatchNorm sees half a batch each: the steps agree in size, not to the bit
    assert float(moved.mean() / (one["latents.weight"] - one["start"]).norm(dim=1).mean()) == pytest.approx(1, abs=0.3)


# -------------------------------------------------------------------------------------------------------------- errors


BAD = [
    ("--data.root nothing_here", "--data.root", "nothing_here"),
    ("--data.root a_file", "--data.root", "a_file"),
    ("--data.root no_lmdb", "--data.root", "no_lmdb"),
    ("--data.root garbage", "--data.root", "garbage"),
    ("--data.root empty", "--data.root", "empty"),
    ("--data.root no_images --data.num_samples null", "key abc0", "no_images"),
    ("--data.root no_images --data.num_samples null --model.init random", "key abc0", "no_images"),
    ("--model.latent_dim 0", "--model.latent_dim", "0"),
    ("--model.latent_dim 25", "--model.latent_dim", "25"),
    ("--model.levels 6", "--model.levels", "6"),
    ("--data.image_size 48", "--data.image_size", "48"),
    ("--data.batch_size 0", "--data.batch_size", "0"),
    ("--data.batch_size many", "--data.batch_size", "many"),
    ("--data.num_samples 0", "--data.num_samples", "0"),
    ("--data.num_samples 1912", "--data.num_samples", "1911"),
    ("--data.num_workers -1", "--data.num_workers", "-1"),
    ("--model.generator_lr -1", "--model.generator_lr", "-1"),
    ("--model.latent_lr -1", "--model.latent_lr", "-1"),
    ("--model.loss l3", "--model.loss", "lap_l1"),
    ("--model.init zero", "--model.init", "pca"),
    ("--model.constraint cube", "--model.constraint", "ball"),
    ("--bathc_size 3", "--bathc_size", "--data.batch_size"),
    ("--data.bathc_size 3", "--data.bathc_size", "--data.batch_size"),
    ("--max_epoch 3", "--max_epoch", "--trainer.max_epochs"),
    ("--trainer.max_epoch 3", "--trainer.max_epoch", "--trainer.max_epochs"),
    ("--max_epochs some", "--trainer.max_epochs", "some"),
    ("--config nothing_here.yaml", "--config", "nothing_here.yaml"),
    ("--config misspelt.yaml", "latnet_dim", "--model.latent_dim"),
    ("--config broken.yaml", "--config", "line 1"),
    ("--accelerator abacus", "trainer", "abacus"),
    ("--resume no_lmdb", "--resume", "no_lmdb"),
    ("--resume nothing_here", "--resume", "nothing_here"),
    ("--ckpt_path nothing_here", "--ckpt_path", "nothing_here"),
    ("--ckpt_path a_file", "--ckpt_path", "a_file"),
    ("--output a_run", "--output", "--resume a_run"),
    ("--output a_file", "--output", "a_file"),
    ("--output a_file/below", "--output", "a_file"),
    ("--output /proc/nobody/writes/here", "--output", "/proc/nobody"),
]


@pytest.fixture
def bad_inputs(tmp_path):
    (tmp_path / "a_file").write_text("x")
    (tmp_path / "no_lmdb").mkdir()
    (tmp_path / "a_run").mkdir()
    (tmp_path / "a_run" / "config.yaml").write_text("{}")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "data.mdb").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "misspelt.yaml").write_text("model: {latnet_dim: 1}")
    (tmp_path / "broken.yaml").write_text("model: [a\n b: {")
    write_lmdb(tmp_path / "empty", {})
    write_lmdb(tmp_path / "no_images", {b"abc%d" % row: b"hello" for row in range(24)})


@pytest.mark.parametrize(("arguments", "first", "further"), BAD, ids=[arguments for arguments, *_ in BAD])
def test_wrong_input_ends_in_one_line(run, bad_inputs, tmp_path, arguments, first, further):
    before = set(tmp_path.iterdir())
    status, line = run(*TINY, *arguments.split())
    assert status == 2
    assert line.startswith(first)
    assert further in line
    assert set(tmp_path.iterdir()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("flag", ["--accelerator", "--trainer.accelerator"])
def test_a_gpu_that_is_not_there(run, flag):
    status, line = run(*TINY, flag, "gpu")
    assert status == 2
    assert line.startswith("--accelerator gpu")


def test_a_damaged_checkpoint_with_none_before_it_is_named_and_left_alone(run, trained):
    last = trained / "checkpoints" / "last.ckpt"
    content = last.read_bytes()[:1000]
    last.unlink()
    last.write_bytes(content)
    (trained / "checkpoints" / "previous.ckpt").unlink()
    status, line = run("--resume", trained, "--max_epochs=3")
    assert status == 2
    assert line.startswith(f"--resume {last}")
    assert last.read_bytes() == content


def test_a_full_disk_is_found_out_before_the_work(run, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    status, line = run(*TINY, "--output", tmp_path / "new" / "run")
    assert (status, line.split()[0]) == (2, "--output")
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_ends_in_one_line_and_keeps_the_checkpoint(run, trained, monkeypatch):
    last = trained / "checkpoints" / "last.ckpt"
    content = last.read_bytes()

    def full(checkpoint, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "last.ckpt")

    monkeypatch.setattr(torch, "save", full)
    status, line = run("--resume", trained, "--max_epochs=3")
    assert (status, "No space left" in line) == (1, True)
    assert last.read_bytes() == content
    assert sorted(file.name for file in last.parent.iterdir()) == CHECKPOINTS


# ------------------------------------------------------------------------------------------------ as a user starts it


def test_ctrl_c_then_resume_as_a_process(tmp_path):
    script = [sys.executable, REPOSITORY / "scripts" / "train.py"]
    with subprocess.Popen(
        [*script, *TINY, "--max_epochs=200", "--output", tmp_path / "run"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--resume {tmp_path / 'run'}" in stderr.splitlines()[-1]
    epochs = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] + 2
    again = [*script, "--resume", tmp_path / "run", "--max_epochs", str(epochs)]
    subprocess.run(again, check=True, capture_output=True, cwd=tmp_path)
    steps = [event.step for event in events(tmp_path / "run").Scalars("train/loss_epoch")]
    assert steps == [3 * epoch + 2 for epoch in range(epochs)]


def test_help_names_every_flag(tmp_path):
    script = [sys.executable, REPOSITORY / "scripts" / "train.py", "--help"]
    text = subprocess.run(script, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    for flag in ("--output", "--resume", "--ckpt_path", "--data.root", "--model.latent_lr", "--trainer.accelerator"):
        assert flag in text
    assert not list(tmp_path.iterdir())


def test_build_lmdb_makes_what_the_dataset_reads(tmp_path):
    from glo_lightning.data import LMDBDataset

    images = tmp_path / "images"
    (images / "below").mkdir(parents=True)
    for row in range(5):
        (images / f"{row}.png").write_bytes(encode(flat_image(row, size=300)))
    (images / "below" / "copy.png").write_bytes((images / "0.png").read_bytes())
    (images / "broken.jpg").write_bytes(b"not an image")
    script = [sys.executable, REPOSITORY / "scripts" / "build_lmdb.py", tmp_path / "lmdb", images, "--size", "64"]
    done = subprocess.run([*script, "--quality", "100"], check=True, capture_output=True, text=True)
    assert "6 images, 1 files left out" in done.stdout
    assert "broken.jpg" in done.stderr
    dataset = LMDBDataset(tmp_path / "lmdb", 64)
    reds = [int(dataset[row][0][0, 0, 0]) for row in range(6)]
    assert sorted(reds) == [0, 0, 1, 2, 3, 4]
    assert all(len(dataset.key(row)) == 40 for row in range(6))

    again = subprocess.run(script, capture_output=True, text=True)
    assert again.returncode != 0
    assert "Traceback" not in again.stderr
    nothing = subprocess.run([*script[:2], tmp_path / "b", images / "broken.jpg"], capture_output=True, text=True)
    assert nothing.returncode != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "lmdb"]
