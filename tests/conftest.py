"""What the tests share: a cache of their own, small LMDBs, the command line in this process."""

from __future__ import annotations

import os

# The suite runs as two processes: their threads, and those of the programs that they start, would stand in each
# other's way. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import io
import logging
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from glo_lightning.progress import set_progress

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup would have it ignored, by the programs that tests start, too

REPOSITORY = Path(__file__).parents[1]

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The users' cache folder stays as it is."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def same_environment():
    """What launchers and loggers set in the environment is gone after a test, and a group of processes."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def silent_logger():
    """The command line logs to the standard output of its test, which is closed after it, as its flags say."""
    yield
    logging.getLogger("glo_lightning").handlers = []
    set_progress("auto")


def encode(pixels: np.ndarray, file_format: str = "PNG", **options) -> bytes:
    record = io.BytesIO()
    Image.fromarray(pixels).save(record, file_format, **options)
    return record.getvalue()


def rows_of(images: torch.Tensor) -> torch.Tensor:
    """The row that each flat image tells of."""
    return images[:, 0, 0, 0].long() + 256 * images[:, 1, 0, 0].long()


def write_lmdb(folder: Path, records: dict[bytes, bytes]) -> Path:
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        for key, record in records.items():
            transaction.put(key, record)
    return folder


def flat_image(value: int, size: int = 32) -> np.ndarray:
    """An image of one colour that tells its row: value = 256 * green + red."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = value % 256, value // 256
    return pixels


@pytest.fixture(scope="session")
def flat_lmdb(tmp_path_factory) -> Path:
    """300 images, each of the colour of its row."""
    records = {b"%040x" % row: encode(flat_image(row)) for row in range(300)}
    return write_lmdb(tmp_path_factory.mktemp("flat") / "lmdb", records)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path) -> Run:
    """run("--flag", value, ...) -> (exit status, last line on stderr): scripts/train.py in this process.

    ``run.output`` is what the last call printed.
    """
    from glo_lightning.training.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        status = 0
        try:
            main(REPOSITORY / "configs" / "quickstart.yaml")
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        lines, run.output = captured.err.strip().splitlines(), captured.out
        assert status == 0 or len(lines) == 1, lines
        return status, "".join(lines[-1:])

    return run


TINY = ("--data.num_samples=24", "--data.batch_size=8", "--data.image_size=32", "--model.generator.width=4")
TINY += ("--model.latent_dim=6", "--accelerator=cpu", "--enable_progress_bar=false")


def train(folder: Path, *flags: object) -> Path:
    """Trains in this process, into the folder; returns it."""
    from glo_lightning.training.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *TINY, *map(str, flags), "--output", str(folder)])
        main(REPOSITORY / "configs" / "quickstart.yaml")
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A run of two epochs on 16 of the shipped faces, with 8 held out."""
    from programs import train

    return train(tmp_path_factory.mktemp("tiny") / "run", "--data.holdout=8")


@pytest.fixture(scope="session")
def faces_run(tmp_path_factory) -> Path:
    """A run of three epochs on 96 of the shipped faces, which have attributes."""
    folder = tmp_path_factory.mktemp("faces") / "run"
    return train(folder, "--data.num_samples=96", "--max_epochs=3", "--prior=null")


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory) -> Path:
    """A run of two epochs in three batches each, not to be changed."""
    return train(tmp_path_factory.mktemp("trained") / "run", "--max_epochs=2")


@pytest.fixture
def trained(trained_once, tmp_path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(trained_once, tmp_path / "trained"))


def load(folder: Path, name: str = "last") -> dict:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def events(folder: Path) -> EventAccumulator:
    """What a run has written for TensorBoard, with all pictures."""
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) of every scalar but the speed, and the epoch that Lightning logs with each."""
    # TensorBoard reads the files by name, which holds the second: these runs are quicker than that
    files = sorted(folder.glob("events.*"), key=lambda file: file.stat().st_mtime_ns)
    for number, file in enumerate(files):
        file.rename(folder / f"events.out.tfevents.{number:010d}")
    accumulator = events(folder)
    tags = set(accumulator.Tags()["scalars"]) - {"train/images_per_second", "epoch"}
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}


def equal(a: Any, b: Any) -> bool:
    """Of tensors, in whatever dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def same_state(first: Path, second: Path) -> bool:
    """Weights, codes, initial codes, optimizer and progress are equal, bit for bit."""
    a, b = load(first), load(second)
    keys = ("state_dict", "initial_codes", "global_step", "epoch", "epoch_loss", "optimizer_states", "callbacks")
    return all(equal(a[key], b[key]) for key in keys)


def assert_same_run(first: Path, second: Path) -> None:
    """The state and the curves are equal, bit for bit."""
    assert same_state(first, second)
    assert curves(first) == curves(second)
