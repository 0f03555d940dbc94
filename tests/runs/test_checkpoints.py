import errno
import fcntl
import os
import pickle
import re
import resource
import shutil
import signal
import stat
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import TINY, assert_same_run, curves, load
from programs import refusal

from glo_lightning.errors import InputError
from glo_lightning.module import GLO
from glo_lightning.runs.checkpoints import read_checkpoint, read_newest
from glo_lightning.runs.folder import RunFolder
from glo_lightning.training.callbacks import Curves, ReconstructionGrid

RUN = (*TINY, "--data.num_samples=40", "--data.batch_size=4", "--max_epochs=2", "--log_every_n_steps=1")


@pytest.fixture
def at_step(monkeypatch):
    """at_step({5: action}): the action once, after that step's update and before its checkpoint."""

    def at_step(actions):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step in actions:
                actions.pop(trainer.global_step)()

        monkeypatch.setattr(ReconstructionGrid, "on_train_batch_end", on_train_batch_end, raising=False)

    return at_step


def cut() -> None:
    """As sudden as a kill: nothing is saved."""
    raise KeyboardInterrupt


def send(number: int):
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def whole_runs():
    return {}


@pytest.fixture
def whole(run, tmp_path_factory, whole_runs):
    """whole(*flags): the uninterrupted run, made once for each set of flags."""

    def whole(*flags: str) -> Path:
        if flags not in whole_runs:
            whole_runs[flags] = tmp_path_factory.mktemp("whole") / "run"
            assert run(*RUN, *flags, "--output", whole_runs[flags])[0] == 0
        return whole_runs[flags]

    return whole


EPOCHLESS = ("--model.schedule=constant", "--max_epochs=-1")
MUON = ("--model.optimizer=timm.optim.Muon", "--model.optimizer.lr=0.01", "--model.latent_optimizer=WhitenedRows")
RESUMED = {
    "streaming": ("--data.cache=false",),
    "workers": ("--data.cache=false", "--data.num_workers=2"),
    "max_steps": (*EPOCHLESS, "--max_steps=20"),
    "holdout": (*EPOCHLESS, "--max_steps=18", "--data.holdout=8"),
    "whitened": ("--model.latent_optimizer=WhitenedRows",),
    "momentum": ("--model.optimizer.momentum=0.9",),
    "AdamW": ("--model.optimizer=AdamW", "--model.optimizer.lr=0.003"),
    "Adagrad": ("--model.optimizer=Adagrad", "--model.optimizer.lr=0.01"),
    "Muon": MUON,
    "places": ("--model.generator=SpatialGenerator", "--model.generator.side=2", "--model.latent_dim=8", *MUON),
    "accumulate": ("--accumulate_grad_batches=3",),
    "limit": ("--limit_train_batches=7",),
}
ANYWHERE = {3: cut, 4: send(signal.SIGTERM), 9: cut, 12: send(signal.SIGUSR1)}


def stop_and_resume(run, folder, at_step, stops, flags):
    """Starts the run, and resumes it after each of the stops; returns the exit statuses."""
    at_step(dict(stops))
    first = run(*RUN, *flags, "--checkpoint.every_n_steps=2", "--output", folder)[0]
    return [first, *(run("--resume", folder)[0] for _ in stops)]


def test_a_run_cut_off_anywhere_is_the_run_that_was_never_stopped(run, whole, tmp_path, at_step):
    statuses = stop_and_resume(run, tmp_path / "cut", at_step, ANYWHERE, ())
    assert statuses == [130, 143, 130, 138, 0]
    assert_same_run(whole(), tmp_path / "cut")  # the optimizers' state too


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_whatever_the_flags_a_resumed_run_is_the_one_that_was_never_stopped(run, whole, tmp_path, at_step, name):
    stop = {4 if name == "accumulate" else 9: cut}
    assert stop_and_resume(run, tmp_path / "cut", at_step, stop, RESUMED[name]) == [130, 0]
    flags = [flag for flag in RESUMED[name] if "cache" not in flag and "workers" not in flag]  # which change nothing
    assert_same_run(whole(*flags), tmp_path / "cut")


def test_a_run_cut_off_by_max_steps_goes_on_in_its_epoch(run, whole, tmp_path):
    for flags in (("--max_steps=4", "--output"), ("--max_steps=13", "--resume"), ("--max_steps=-1", "--resume")):
        arguments = RUN if flags[1] == "--output" else ()
        assert run(*arguments, flags[0], "--model.schedule=constant", flags[1], tmp_path / "cut")[0] == 0
    expected = load(whole("--model.schedule=constant"))["state_dict"]
    assert all(torch.equal(expected[key], value) for key, value in load(tmp_path / "cut")["state_dict"].items())


def test_a_checkpoint_every_so_many_minutes(run, tmp_path, at_step):
    at_step({5: cut})
    run(*RUN, "--checkpoint.every_minutes=0", "--output", tmp_path / "cut")
    assert load(tmp_path / "cut")["global_step"] == 4


def test_another_order_in_mid_epoch_is_refused(run, tmp_path, at_step):
    at_step({5: cut})
    run(*RUN, "--checkpoint.every_n_steps=2", "--output", tmp_path / "cut")
    for flag in ("--data.batch_size=5", "--seed_everything=7"):
        status, line = run("--resume", tmp_path / "cut", flag)
        assert (status, line.split()[0]) == (2, flag.partition("=")[0])
        assert load(tmp_path / "cut")["global_step"] == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_with_a_checkpoint(run, tmp_path, at_step, number):
    at_step({5: send(number)})
    line = f"Stopped after step 5. Continue with --resume {tmp_path / 'run'}"
    assert run(*RUN, "--output", tmp_path / "run") == (128 + number, line)
    assert load(tmp_path / "run")["global_step"] == 5


def test_under_nohup_a_closed_terminal_changes_nothing(run, tmp_path, at_step):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        at_step({5: send(signal.SIGHUP)})
        assert run(*RUN, "--max_epochs=1", "--output", tmp_path / "run") == (0, "")
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert load(tmp_path / "run")["global_step"] == 10


def test_a_signal_in_the_last_step_of_an_epoch_leaves_after_the_epoch(run, whole, tmp_path, at_step):
    at_step({10: send(signal.SIGTERM)})
    assert run(*RUN, "--output", tmp_path / "run")[0] == 143
    assert load(tmp_path / "run")["global_step"] == 10
    run("--resume", tmp_path / "run")
    assert_same_run(whole(), tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step_leaves_nothing_behind(run, tmp_path, monkeypatch, number):
    monkeypatch.setattr("glo_lightning.latents.fit_pca_of_batches", lambda *_, **__: send(number)())
    line = "Stopped before the first step. Nothing was written."
    assert run(*RUN, "--output", tmp_path / "new" / "run") == (128 + number, line)
    assert not (tmp_path / "new").exists()


def test_a_run_without_a_checkpoint_starts_again(run, whole, tmp_path, at_step):
    at_step({3: cut})
    assert run(*RUN, "--output", tmp_path / "cut")[0] == 130
    assert not (tmp_path / "cut" / "checkpoints").exists()
    assert run("--resume", tmp_path / "cut") == (0, "")
    assert_same_run(whole(), tmp_path / "cut")
    names = [{picture.name for picture in (folder / "images").iterdir()} for folder in (whole(), tmp_path / "cut")]
    assert names[0] == names[1]


def test_newest_and_the_one_before_are_kept_and_best_is_a_link(run, tmp_path):
    run(*RUN, "--max_epochs=1", "--checkpoint.every_n_steps=4", "--output", tmp_path / "run")
    assert [load(tmp_path / "run", name)["global_step"] for name in ("last", "previous", "best")] == [10, 8, 10]
    inodes = {file.name: file.stat().st_ino for file in (tmp_path / "run" / "checkpoints").iterdir()}
    assert inodes.keys() == {"last.ckpt", "previous.ckpt", "best.ckpt"}
    assert inodes["last.ckpt"] == inodes["best.ckpt"] != inodes["previous.ckpt"]


def test_a_disk_that_can_little_will_do(run, tmp_path, monkeypatch):
    """Without hard links, locks, reserved space and syncing of folders, as network disks and containers may be."""
    real = os.fsync

    def sync_files_alone(file):
        if stat.S_ISDIR(os.fstat(file).st_mode):
            refuse(errno.EINVAL)
        real(file)

    def refuse(code):
        raise OSError(code, os.strerror(code))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "link", lambda *_: refuse(errno.EPERM))
    monkeypatch.setattr(fcntl, "flock", lambda *_: refuse(errno.ENOLCK))
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr(os, "fsync", sync_files_alone)
    flags = (*RUN, "--max_epochs=1", "--checkpoint.every_n_steps=4")
    assert run(*flags, "--output", tmp_path / "run") == (0, "")
    assert [load(tmp_path / "run", name)["global_step"] for name in ("last", "previous", "best")] == [10, 8, 10]


def test_a_read_only_cache_that_is_filled_is_used(run, whole, tmp_path, monkeypatch):
    whole()

    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    access = os.access
    cache = os.environ["XDG_CACHE_HOME"]
    monkeypatch.setattr(os, "access", lambda path, mode: not os.fspath(path).startswith(cache) and access(path, mode))
    monkeypatch.setattr("glo_lightning.data.store.Lock.acquire", refuse)
    monkeypatch.setattr("glo_lightning.runs.folder.Lock", FreeLock)
    assert run(*RUN, "--max_epochs=1", "--output", tmp_path / "run") == (0, "")
    status, line = run(*RUN, "--data.num_samples=41", "--max_epochs=1", "--output", tmp_path / "other")
    assert status == 2
    assert "Read-only file system" in line
    assert "XDG_CACHE_HOME" in line


class FreeLock:
    """A lock that nobody holds."""

    def __init__(self, path):
        self.path = self.owner = path

    def acquire(self):
        return True

    def release(self):
        pass


def test_last_of_lightnings_checkpoints_is_not_ours(run, tmp_path):
    flags = (*RUN, "--max_epochs=2", "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_last=true")
    (tmp_path / "link").symlink_to(tmp_path)
    place = f"--trainer.callbacks.dirpath={tmp_path / 'run' / 'checkpoints'}"
    assert run(*flags, place, "--output", tmp_path / "link" / "run") == (0, "")
    assert [load(tmp_path / "run", name)["global_step"] for name in ("last", "previous")] == [20, 10]
    assert (tmp_path / "run" / "checkpoints" / "last-of-lightning.ckpt").exists()
    status, line = run(*flags, "--trainer.callbacks.filename=best", "--output", tmp_path / "other")
    assert (status, "best: is the name of one of the run's own checkpoints" in line) == (2, True)


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "flipped":
        content[len(content) // 2] ^= 1
    if how != "missing":
        path.write_bytes(
            {"half": content[: len(content) // 2], "noise": b"noise" * 999, "empty": b""}.get(how, content)
        )


def test_if_last_is_damaged_the_one_before_is_used(run, whole, tmp_path, at_step, caplog, monkeypatch):
    at_step({7: cut})
    run(*RUN, "--checkpoint.every_n_steps=3", "--output", tmp_path / "cut")
    for how in ("half", "noise", "empty", "flipped", "missing"):
        folder = RunFolder(shutil.copytree(tmp_path / "cut", tmp_path / how))
        damage(folder.last, how)
        assert read_newest(folder, "resume")[0] == folder.previous
        assert "last.ckpt" in caplog.messages[-1]
        assert "previous.ckpt" in caplog.messages[-1]
        assert load(folder.path, "previous")["global_step"] == 3
    for how in ("half", "missing"):
        if how == "missing":  # once more on a disk without hard links
            monkeypatch.setattr(os, "link", Mock(side_effect=OSError(errno.EPERM, "not permitted")))
        assert run("--resume", tmp_path / how)[0] == 0
        read_checkpoint(tmp_path / how / "checkpoints" / "previous.ckpt", "resume")  # it is whole
        assert_same_run(whole(), tmp_path / how)


def test_the_best_checkpoint_is_not_replaced_by_a_run_that_begins_again(run, whole, tmp_path):
    folder = RunFolder(shutil.copytree(whole(), tmp_path / "run"))
    damage(folder.previous, "missing")
    damage(folder.last, "missing")
    status, line = run("--resume", folder.path)
    assert (status, f"Continue from {folder.best} by --ckpt_path" in line) == (2, True)


def fail_from(monkeypatch, function, times, code):
    """From its ``times``-th call with a checkpoint on, os.fsync or os.replace fails, as the disk does."""
    real, calls = getattr(os, function), []

    def failing(target, *arguments):
        name = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(target)
        if ".new.ckpt" in name:
            calls.append(name)
            if len(calls) >= times:
                raise OSError(code, os.strerror(code), name)
        return real(target, *arguments)

    monkeypatch.setattr(os, function, failing)


@pytest.mark.parametrize(
    ("function", "code", "times", "step"),
    [("fsync", errno.ENOSPC, 3, 6), ("replace", errno.EIO, 3, 3), ("fsync", errno.ENOSPC, 1, None)],
    ids=["full", "fails", "full before the first checkpoint"],
)
def test_a_disk_that_fails_ends_the_run_with_the_checkpoint_before_intact(
    run, whole, tmp_path, monkeypatch, function, code, times, step
):
    with monkeypatch.context() as patch:
        fail_from(patch, function, times, code)
        status, line = run(*RUN, "--checkpoint.every_n_steps=3", "--output", tmp_path / "run")
    assert status == 1
    assert os.strerror(code) in line
    assert f"--resume {tmp_path / 'run'}" in line
    assert step is None or load(tmp_path / "run")["global_step"] == step  # replaced twice for each checkpoint
    assert run("--resume", tmp_path / "run")[0] == 0
    assert_same_run(whole(), tmp_path / "run")


def test_a_disk_that_fails_is_gone_on_without_if_so_configured(run, tmp_path, monkeypatch):
    flags = ("--checkpoint.every_n_steps=3", "--checkpoint.on_write_error=skip")
    with monkeypatch.context() as patch:
        fail_from(patch, "fsync", 2, errno.ENOSPC)
        assert run(*RUN, *flags, "--output", tmp_path / "run")[0] == 0
    assert load(tmp_path / "run")["global_step"] == 3


@pytest.mark.parametrize(("policy", "status"), [("skip", 0), ("raise", 1)])
@pytest.mark.parametrize("what", ["reports.write_text", "samples.write_picture"])
def test_figures_and_samples_that_cannot_be_written(run, tmp_path, monkeypatch, policy, status, what):
    monkeypatch.setattr(f"glo_lightning.training.{what}", Mock(side_effect=OSError(errno.ENOSPC, "no room")))
    flags = (*RUN, "--max_epochs=1", "--prior=gaussian", f"--checkpoint.on_write_error={policy}")
    assert run(*flags, "--output", tmp_path / "run")[0] == status
    if what == "samples.write_picture" or policy == "skip":
        assert load(tmp_path / "run")["epoch"] == 0


@pytest.fixture
def small_disk(whole):
    """The system refuses files over 20 kB, as a full disk would: checkpoints, pictures and events."""
    whole()  # the decoded images are in the cache by then
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_pictures_and_curves_that_cannot_be_written(run, small_disk, tmp_path, policy):
    flags = (*RUN, "--max_epochs=3", f"--checkpoint.on_write_error={policy}", "--checkpoint.every_n_steps=1000")
    status, line = run(*flags, "--output", tmp_path / "run")
    if policy == "skip":
        assert (status, line) == (0, "")
        for what in ("A checkpoint", "The picture targets", "TensorBoard's curves"):
            assert f"{what} could not be written" in run.output
        losses = curves(tmp_path / "run")["train/loss"]
        assert [step for step, _ in losses] == list(range(len(losses)))
        assert len(losses) > 20  # what fits is there and can be read
    else:
        assert status == 1
        assert "File too large" in line
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.endswith(".tmp")]


OLDER = "the checkpoint was written by an older version. Use glo_lightning 0.3.0 (commit ac7fd97) to read it."
NEWER = "the checkpoint was written by a newer version. Update this one, which reads 4."


@pytest.mark.parametrize(("version", "told"), [(None, f"0: {OLDER}"), (3, f"3: {OLDER}"), (5, f"5: {NEWER}")])
def test_another_format_is_refused_in_one_line(run, whole, tmp_path, version, told):
    """Before its arguments are read, which this version may not know."""
    folder = Path(shutil.copytree(whole(), tmp_path / "run"))
    with (folder / "config.yaml").open("a") as config:
        config.write("no_longer_an_argument: 1\n")
    last, checkpoint = folder / "checkpoints" / "last.ckpt", load(folder)
    checkpoint["hyper_parameters"]["generator"] = "no_longer_a_generator"
    del checkpoint["format_version"]
    torch.save(checkpoint if version is None else checkpoint | {"format_version": version}, last)
    before = sorted(folder.rglob("*"))
    assert run("--resume", folder) == (2, f"format_version {told}")
    assert run(*RUN, "--ckpt_path", last, "--output", tmp_path / "new") == (2, f"format_version {told}")
    assert refusal("sample", folder) == f"format_version {told}"
    with pytest.raises(InputError, match=re.escape(told)):
        GLO.load_from_checkpoint(last)
    assert sorted(folder.rglob("*")) == before
    assert not (tmp_path / "new").exists()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_strangers_file_runs_no_code(run, whole, tmp_path):
    last = Path(shutil.copytree(whole(), tmp_path / "run")) / "checkpoints" / "last.ckpt"
    torch.save(load(tmp_path / "run") | {"evil": Evil(tmp_path / "ran")}, last)
    (tmp_path / "run" / "checkpoints" / "previous.ckpt").unlink()
    assert run("--resume", tmp_path / "run")[0] == 2
    assert run(*TINY, "--ckpt_path", last)[0] == 2
    with pytest.raises(pickle.UnpicklingError, match="Weights only"):
        GLO.load_from_checkpoint(last)
    assert not (tmp_path / "ran").exists()


def test_deterministic_is_heard_without_prefix(run, whole, tmp_path):
    assert run(*RUN, "--deterministic=true", "--output", tmp_path / "run")[0] == 0
    torch.use_deterministic_algorithms(False)
    assert_same_run(whole(), tmp_path / "run")


def test_best_has_the_highest_psnr_of_held_out_images(run, tmp_path, monkeypatch):
    scores = [3.0, 9.0, 4.0]
    monkeypatch.setattr(GLO, "validation_step", lambda self, *_: self.log("val/psnr", scores.pop(0), batch_size=8))
    run(*TINY, "--max_epochs=3", "--data.holdout=8", "--output", tmp_path / "run")
    assert load(tmp_path / "run", "best")["epoch"] == 1


def test_best_has_the_lowest_loss_without_held_out_images(run, tmp_path, monkeypatch):
    real, factors = Curves.on_train_epoch_end, [2.0, 1.0, 3.0]

    def scaled(self, trainer, module):
        self.total[0] *= factors.pop(0)
        real(self, trainer, module)

    monkeypatch.setattr(Curves, "on_train_epoch_end", scaled)
    run(*TINY, "--max_epochs=3", "--output", tmp_path / "run")
    assert load(tmp_path / "run", "best")["epoch"] == 1
