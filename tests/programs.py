"""The programs of scripts/, run in this process."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, TINY
from PIL import Image


def call(name: str, *arguments: object) -> tuple[int, str, list[str]]:
    """Run scripts/<name>.py: its exit status, its output, its lines on standard error without progress bars."""
    output, errors, status = io.StringIO(), io.StringIO(), 0
    streams = contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors)
    with pytest.MonkeyPatch.context() as patch, streams[0], streams[1]:
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        try:
            runpy.run_path(str(REPOSITORY / "scripts" / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            if isinstance(stop.code, str):
                errors.write(stop.code)
            status = 1 if isinstance(stop.code, str) else int(stop.code or 0)
    lines = [line for line in re.split("[\r\n]+", errors.getvalue()) if line.strip() and "images/s" not in line]
    return status, output.getvalue(), lines


def refusal(name: str, *arguments: object) -> str:
    """The one line with which scripts/<name>.py refuses these arguments, with status 2."""
    status, _, errors = call(name, *arguments)
    assert (status, len(errors)) == (2, 1), errors
    return errors[0]


def codes_of(name: str, run: Path, *arguments: object) -> np.ndarray:
    """The codes (M, D) that scripts/<name>.py makes of a run and saves, in the current folder."""
    outputs = ("--output=made.png", "--codes=made.npy", "--overwrite")
    status, _, errors = call(name, run, "--accelerator=cpu", *arguments, *outputs)
    assert status == 0, errors
    return np.load("made.npy")


def table_of(run: Path) -> torch.Tensor:
    """The latent codes of a run's last checkpoint."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["latents.weight"]


def train(folder: Path, *flags: object) -> Path:
    """A run of two epochs on 24 of the shipped faces, unless the flags say otherwise."""
    status, _, errors = call("train", *TINY, "--max_epochs=2", "--prior=null", *flags, "--output", folder)
    assert status == 0, errors
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning may have left another
    return folder


def make(command: str) -> np.ndarray:
    """Run a copied command in the current folder: the picture that it writes, (H, W, 3)."""
    python, script, *arguments = shlex.split(command)
    status, _, errors = call(Path(script).stem, *arguments)
    assert (python, status) == ("python", 0), errors
    output = Path(arguments[arguments.index("--output") + 1])
    with Image.open(output / "filled.png" if output.is_dir() else output) as picture:
        return np.asarray(picture.convert("RGB"))


def stands_in(picture: np.ndarray, image: np.ndarray) -> bool:
    """Whether a picture (H, W, 3) holds an image (h, w, 3), enlarged to 64 pixels, but for roundings."""
    factor = 64 // len(image)
    image = image.repeat(factor, 0).repeat(factor, 1)
    windows = np.lib.stride_tricks.sliding_window_view(picture, image.shape)[:, :, 0]
    coarse = (np.abs(windows[..., ::16, ::16, :].astype(np.int16) - image[::16, ::16]) <= 1).all((2, 3, 4))
    return any((np.abs(windows[y, x].astype(np.int16) - image) <= 1).all() for y, x in np.argwhere(coarse))
