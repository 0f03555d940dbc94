"""Walks along the principal axes of the codes: glo walk RUN [--image 17] [--path flow] [--axes 6]

Each row changes a code along one axis, by up to --reach standard deviations of the training codes to either side. The
walks start from an image's code, or from the mean code. Codes differ most along the first axis. --path flow walks in
the noise of a flow, and so stays where codes lie; --path line, the default, walks among the codes.
--move 1:1.5 glasses=sunglasses:1 makes one picture instead: the start moved by 1.5 standard deviations along the first
axis, and by the difference of the mean codes of the images with and without that label.
"""

from __future__ import annotations

import argparse

import torch

from glo_lightning.commands.parser import refuse_unused
from glo_lightning.errors import InputError
from glo_lightning.explore.codes import codes_by_name, generate
from glo_lightning.explore.editing import directions, move
from glo_lightning.explore.interactive import load_run
from glo_lightning.explore.outputs import write_picture
from glo_lightning.explore.pictures import picture


def run(options: argparse.Namespace) -> None:
    (moved if options.move else walked)(options)


def read_move(text: str) -> tuple[str, float]:
    """Read ``1:1.5`` or ``name=value:1.5``: a direction and an amount."""
    name, colon, amount = text.rpartition(":")
    try:
        return name, float(amount if colon else "")
    except ValueError as error:
        raise InputError("move", text, "is not DIRECTION:AMOUNT. Give 1:-2 or glasses=sunglasses:1, say.") from error


def moved(options: argparse.Namespace) -> None:
    moves = [read_move(text) for text in options.move]
    if options.path == "flow":
        raise InputError("path", "flow", "moves are among the codes. Give --path line.")
    refuse_unused(options, "with --move, which makes one image", "axes", "steps", "reach", "animation")
    run = load_run(options.run, options.accelerator, options.root)
    origin = run.trained_codes.mean(0) if options.image is None else codes_by_name(run, [options.image])[0]
    place = move(origin, directions(run, run.codes.shape[1]), moves)
    codes = torch.stack([origin, run.model.project(place)])
    title = f"{options.image or 'the mean code'}, moved: {' '.join(options.move)}"
    both = picture([list(generate(run.model, codes).cpu())], title, ["start", "moved"])
    write_picture(options, run, "explore/move", both, codes)


def walked(options: argparse.Namespace) -> None:
    run = load_run(options.run, options.accelerator, options.root)
    made = run.walk(options.image, options.axes, options.steps, options.reach, options.path)
    rows = made.images.split(options.steps)
    there_and_back = torch.cat([torch.cat([row, row.flip(0)]) for row in rows])
    write_picture(options, run, "explore/walk", made.picture, made.codes, there_and_back)
