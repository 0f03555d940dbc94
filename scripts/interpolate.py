"""Goes from image to image: python scripts/interpolate.py RUN START END [START END ...] [--way flow] [--steps 9]

START and END are indices of training images, image files, which are encoded first, or name=value: the mean code of the
training images with that attribute. Each pair has a row for each --way: through the noise of a flow that is fitted to
the codes, which stays where codes lie (the default where there are enough codes for one), on the straight line between
the codes, projected as in training, or on the great arc. --sharpness also measures, over as many random pairs of
training images, how sharp the images half-way are beside those at the ends. --weights mixes all the images given into
one instead, each by its weight; an image may also be a saved code, FILE.npy.
"""

from __future__ import annotations

import argparse

import torch

from glo_lightning.errors import InputError, check_at_least
from glo_lightning.explore.commands import CommandParser, write_picture
from glo_lightning.explore.editing import Mixer, default_way, interpolation
from glo_lightning.explore.metrics import generate
from glo_lightning.explore.path_metrics import random_pairs
from glo_lightning.explore.paths import WAYS, Way, gradient_magnitude
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import TrainedRun, load_run


def main() -> None:
    parser = CommandParser(__doc__, "interpolation.png", "the picture")
    parser.add_argument("images", nargs="+", metavar="START END", help="indices of training images, or image files")
    help_ = "flow, line, arc; several have a row each (default: flow, or arc)"
    parser.add_argument("--way", nargs="+", choices=["flow", *WAYS], help=help_)
    parser.add_argument("--weights", nargs="+", type=float, help="mixes all the images by these, into one")
    parser.add_argument("--steps", type=int, default=9, help="images in a row, the ends among them")
    parser.add_argument("--sharpness", type=int, default=0, metavar="NUM", help="measures it over NUM random pairs")
    parser.add_picture_arguments(moving=True)
    parser.call(lambda: run(parser.parse_args()))


def run(options: argparse.Namespace) -> None:
    if options.weights is None and len(options.images) % 2:
        raise InputError("START END", " ".join(options.images), "give an even number of images, two for each row")
    check_at_least("sharpness", options.sharpness, 0)
    trained = load_run(options.run, options.accelerator, options.root)
    ways = options.way or [default_way(trained)]
    codes, images = trained.codes_of(options.images)
    if options.weights is not None:
        made = torch.stack([Mixer(trained, codes, way)(options.weights) for way in ways])
        rows = [[*images, "", mixed] for mixed in generate(trained.model, made).cpu()]
        columns = [*(f"{weight:g}" for weight in options.weights), "  ", "mixed"]
        title = "A mix: one code among those of these images, by their weights"
        write_picture(options, trained, "explore/mix", picture(rows, title, columns, ways), made)
    else:
        shown, paths, frames = interpolation(trained, codes, images, ways, options.steps)
        write_picture(options, trained, "explore/interpolation", shown, paths, frames)
    if options.sharpness:
        measure(trained, {name: WAYS[name] if name in WAYS else trained.flow_way() for name in ways}, options.sharpness)


def measure(trained: TrainedRun, ways: dict[str, Way], num: int) -> None:
    """Prints the mean gradient magnitude half-way between ``num`` random pairs, over that at their ends."""
    table = trained.model.latents.weight
    first, second = random_pairs(len(table), num)
    for name, way in ways.items():
        path = way(table[first], table[second], 3, trained.model.project)
        start, middle, end = (gradient_magnitude(generate(trained.model, codes)).mean() for codes in path)
        print(f"{name}: half-way {num} pairs are {float(2 * middle / (start + end)):.2f} times as sharp as their ends")


if __name__ == "__main__":
    main()
