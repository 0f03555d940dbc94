"""Goes from image to image: python scripts/interpolate.py RUN START END [START END ...] [--steps 9] [--sharpness NUM]

START and END are indices of training images, or image files, which are encoded first. Each pair has two rows: on the
straight line between the codes, projected as in training, and on the great arc. --sharpness also measures, over as many
random pairs of training images, how sharp the images half-way are beside those at the ends.
"""

from __future__ import annotations

import argparse

import torch

from glo_lightning.errors import InputError, check_at_least
from glo_lightning.explore.commands import CommandParser, write_picture
from glo_lightning.explore.evaluation import generate
from glo_lightning.explore.paths import gradient_magnitude, lerp, slerp
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import TrainedRun, load_run

WAYS = {"linear": lerp, "spherical": slerp}


def main() -> None:
    parser = CommandParser(__doc__, "interpolation.png", "the picture")
    parser.add_argument("images", nargs="+", metavar="START END", help="indices of training images, or image files")
    parser.add_argument("--steps", type=int, default=9, help="images in a row, the ends among them")
    parser.add_argument("--sharpness", type=int, default=0, metavar="NUM", help="measures it over NUM random pairs")
    parser.add_picture_arguments()
    parser.call(lambda: run(parser.parse_args()))


def run(options: argparse.Namespace) -> None:
    if len(options.images) % 2:
        raise InputError("START END", " ".join(options.images), "give an even number of images, two for each row")
    check_at_least("sharpness", options.sharpness, 0)
    trained = load_run(options.run, options.accelerator)
    project = trained.model.project
    ends, targets = trained.codes_of(options.images)
    paths = [
        way(start, end, options.steps, project) for start, end in ends.unflatten(0, (-1, 2)) for way in WAYS.values()
    ]
    images = generate(trained.model, torch.cat(paths)).cpu().split(options.steps)
    rows = [[targets[i // 2 * 2], "", *row, "", targets[i // 2 * 2 + 1]] for i, row in enumerate(images)]
    columns = ["from", "  ", "its code", *[""] * (options.steps - 2), "its code", "  ", "to"]
    title = "Interpolation: the code of one image turns into that of another, on a line and on an arc"
    captions = [*WAYS] * (len(ends) // 2)
    write_picture(options, trained, "explore/interpolation", picture(rows, title, columns, captions), torch.cat(paths))
    if options.sharpness:
        measure(trained, options.sharpness)


def measure(trained: TrainedRun, num: int) -> None:
    """Prints the mean gradient magnitude half-way between ``num`` random pairs, over that at their ends."""
    table = trained.model.latents.weight
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.randperm(len(table), generator=generator)[:2] for _ in range(num)])
    for name, way in WAYS.items():
        paths = torch.stack([way(table[first], table[second], 3, trained.model.project) for first, second in pairs])
        start, middle, end = (gradient_magnitude(generate(trained.model, codes)).mean() for codes in paths.unbind(1))
        print(f"{name}: half-way {num} pairs are {float(2 * middle / (start + end)):.2f} times as sharp as their ends")


if __name__ == "__main__":
    main()
