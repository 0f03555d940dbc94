"""Adds and subtracts images: python scripts/arithmetic.py RUN --a IMAGES... --b IMAGES... --c IMAGES...

Makes an image of the code strength * (a - b) + c, each the mean over the codes of one or several images: indices of
training images, image files, which are encoded first, or name=value, the mean code of all training images with that
attribute: --a glasses=sunglasses --b glasses= --c 17. Of an attribute let b be what c has, and a what it gets instead:
--a skin=ae5d29 --b skin=ffdbb4 --c 17. --way flow does it in the noise that a flow carries to the codes.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from glo_lightning.explore.commands import CommandParser, write_picture
from glo_lightning.explore.metrics import generate
from glo_lightning.explore.paths import arithmetic, nearest
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import is_attribute, load_run


def main() -> None:
    parser = CommandParser(__doc__, "arithmetic.png", "the picture")
    for term in "abc":
        parser.add_argument(f"--{term}", nargs="+", required=True, metavar="IMAGE", help="index or file")
    strength = "of the difference a - b, 1 if not given; of attributes 1.2 shows more of what is wanted"
    parser.add_argument("--strength", type=float, default=1.0, help=strength)
    parser.add_argument("--way", default="line", choices=["flow", "line"], help="among codes, or in a flow's noise")
    parser.add_picture_arguments()
    parser.call(lambda: run(parser.parse_args()))


def run(options: argparse.Namespace) -> None:
    trained = load_run(options.run, options.accelerator, options.root)
    table = trained.model.latents.weight
    names = [options.a, options.b, options.c]
    codes, targets = trained.codes_of([*options.a, *options.b, *options.c])
    enter, leave = trained.chart(options.way)
    project = trained.model.project
    sizes = [len(some) for some in names]
    given = targets.split(sizes)
    means = [places.mean(0) for places in enter(codes).split(sizes)]
    made = project(leave(torch.stack([*means, arithmetic(means[0], means[1], means[2], options.strength)])))
    images = generate(trained.model, made).cpu()
    (closest,) = trained.originals(nearest(made[3:], [(table, torch.arange(len(table)))]))

    def cell(term: int, row: int) -> Tensor | str | None:
        if row >= sizes[term]:
            return None
        name = names[term][row]
        return name.replace("=", "=\n") if is_attribute(name) else given[term][row]

    rows = [[cell(0, row), None, cell(1, row), None, cell(2, row)] for row in range(max(sizes))]
    # the mean of many codes lies where no image does
    a, b, c = (
        "their mean" if any(map(is_attribute, some)) else image for some, image in zip(names, images[:3], strict=True)
    )
    rows.append([a, "-", b, "+", c, "=", images[3], "", closest])
    times = "" if options.strength == 1 else f"{options.strength:g} "
    columns = [
        "a",
        " -  ",
        "b",
        " + ",
        "c",
        " = ",
        f"{times}(a - b) + c" if times else "a - b + c",
        "  ",
        "nearest\ntraining image",
    ]
    captions = ["images", *[""] * (max(sizes) - 1), "their codes\n(mean)" if max(sizes) > 1 else "their codes"]
    title = "Arithmetic: the codes of a, less those of b, plus those of c, make a new image"
    write_picture(options, trained, "explore/arithmetic", picture(rows, title, columns, captions), made)


if __name__ == "__main__":
    main()
