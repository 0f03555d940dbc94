"""Walks along the principal axes of the codes: python scripts/walk.py RUN [--image 17] [--way flow] [--axes 6]

Each row changes the code along one axis, by up to ``reach`` standard deviations of the training codes to either side of
an image's code, or of the codes' mean. The first axis is the direction in which the codes differ most. --way flow walks
in the noise that a flow carries to the codes, and so stays where codes lie; --way line, the default, among the codes.
--move 1:1.5 glasses=sunglasses:1 makes one picture instead: the start moved by 1.5 standard deviations along the first
axis, and by the whole difference of the mean codes of the images with and without that attribute.
"""

from __future__ import annotations

import argparse

import torch

from glo_lightning.errors import InputError
from glo_lightning.explore.commands import CommandParser, write_picture
from glo_lightning.explore.editing import directions, moved
from glo_lightning.explore.metrics import generate
from glo_lightning.explore.paths import principal_axes, walk
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import load_run
from glo_lightning.latents import unconstrained


def main() -> None:
    parser = CommandParser(__doc__, "walk.png", "the picture")
    parser.add_argument("--image", help="where to start: the index of a training image, or a file (default: the mean)")
    parser.add_argument("--way", default="line", choices=["flow", "line"], help="among codes, or in a flow's noise")
    parser.add_argument("--axes", type=int, default=6, help="how many, the longest first")
    parser.add_argument("--steps", type=int, default=9, help="images in a row; odd, to pass the start")
    parser.add_argument("--reach", type=float, default=3.0, help="standard deviations to either side")
    help_ = "instead, one picture moved along several at once: DIRECTION an axis' number, or name=value"
    parser.add_argument("--move", nargs="+", metavar="DIRECTION:AMOUNT", help=help_)
    parser.add_picture_arguments(moving=True)
    parser.call(lambda: chosen(parser.parse_args()))


def chosen(options: argparse.Namespace) -> None:
    (move if options.move else run)(options)


def read_move(text: str) -> tuple[str, float]:
    """``1:1.5`` or ``name=value:1.5``: a direction and the amount."""
    name, colon, amount = text.rpartition(":")
    try:
        return name, float(amount if colon else "")
    except ValueError as error:
        raise InputError("move", text, "is not DIRECTION:AMOUNT, such as 1:-2 or glasses=sunglasses:1") from error


def move(options: argparse.Namespace) -> None:
    """One picture: the start, and where it comes to by all moves together."""
    moves = [read_move(text) for text in options.move]
    trained = load_run(options.run, options.accelerator, options.root)
    table = trained.model.latents.weight
    if options.way == "flow":
        raise InputError("way", "flow", "moves are among the codes; give --way line")
    origin = table.mean(0) if options.image is None else trained.codes([options.image])[0]
    place = moved(origin, directions(trained, table.shape[1]), moves)
    codes = torch.stack([origin, trained.model.project(place)])
    title = f"{options.image or 'the mean code'}, moved: {' '.join(options.move)}"
    shown = picture([list(generate(trained.model, codes).cpu())], title, ["start", "moved"])
    write_picture(options, trained, "explore/move", shown, codes)


def run(options: argparse.Namespace) -> None:
    trained = load_run(options.run, options.accelerator, options.root)
    project = trained.model.project
    enter, leave = trained.chart(options.way)
    places = enter(trained.model.latents.weight)
    axes = principal_axes(places, options.axes)
    origin = places.mean(0) if options.image is None else enter(trained.codes_of([options.image])[0])[0]
    paths = [project(leave(walk(origin, axis, options.steps, options.reach, unconstrained))) for axis in axes]
    rows = generate(trained.model, torch.cat(paths)).cpu().split(options.steps)
    columns = [
        f"{shift:+.3g}" if shift else "0"
        for shift in torch.linspace(-options.reach, options.reach, options.steps).tolist()
    ]
    where = "the mean code" if options.image is None else f"the code of image {options.image}"
    title = f"Walks: {where} is changed along one principal axis, by so many standard deviations"
    captions = [f"axis {number + 1}" for number in range(len(axes))]
    shown, there_and_back = picture(rows, title, columns, captions), [torch.cat([row, row.flip(0)]) for row in rows]
    write_picture(options, trained, "explore/walk", shown, torch.cat(paths), torch.cat(there_and_back))


if __name__ == "__main__":
    main()
