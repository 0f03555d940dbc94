"""Adds and subtracts images: python scripts/arithmetic.py RUN --a IMAGES... --b IMAGES... --c IMAGES...

Makes an image of the code a - b + c, each the mean over the codes of one or several images: indices of training images,
or image files, which are encoded first.
"""

from __future__ import annotations

import argparse

import torch

from glo_lightning.explore.commands import CommandParser, write_picture
from glo_lightning.explore.evaluation import generate
from glo_lightning.explore.paths import arithmetic, nearest
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import load_run


def main() -> None:
    parser = CommandParser(__doc__, "arithmetic.png", "the picture")
    for term in "abc":
        parser.add_argument(f"--{term}", nargs="+", required=True, metavar="IMAGE", help="index or file")
    parser.add_picture_arguments()
    parser.call(lambda: run(parser.parse_args()))


def run(options: argparse.Namespace) -> None:
    trained = load_run(options.run, options.accelerator)
    table = trained.model.latents.weight
    names = [options.a, options.b, options.c]
    codes, targets = trained.codes_of([*options.a, *options.b, *options.c])
    sizes = [len(some) for some in names]
    terms, given = codes.split(sizes), targets.split(sizes)
    a, b, c = terms
    result = arithmetic(a, b, c, trained.model.project)
    made = torch.stack([*[trained.model.project(term.mean(0)) for term in terms], result])
    images = generate(trained.model, made).cpu()
    (closest,) = trained.images(nearest(result[None], [(table, torch.arange(len(table)))]).tolist())

    def cells(row: int) -> list:
        a, b, c = (some[row] if row < len(some) else None for some in given)
        return [a, None, b, None, c]

    rows = [cells(row) for row in range(max(sizes))]
    rows.append([images[0], "-", images[1], "+", images[2], "=", images[3], "", closest])
    columns = ["a", " -  ", "b", " + ", "c", " = ", "a - b + c", "  ", "nearest\ntraining image"]
    captions = ["images", *[""] * (max(sizes) - 1), "their codes\n(mean)" if max(sizes) > 1 else "their codes"]
    title = "Arithmetic: the codes of a, less those of b, plus those of c, make a new image"
    write_picture(options, trained, "explore/arithmetic", picture(rows, title, columns, captions), made)


if __name__ == "__main__":
    main()
