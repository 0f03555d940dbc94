"""Adds and subtracts images: glo arithmetic RUN --a IMAGES... --b IMAGES... --c IMAGES...

Generates the image of the code strength * (a - b) + c. Each of a, b and c is the mean code of one or several images:
indices of training images, image files, which are encoded first, or name=value, for the mean code of the training
images with that label: --a glasses=sunglasses --b glasses= --c 17. Let b be the label that c has, and a the label that
it shall get: --a skin=ae5d29 --b skin=ffdbb4 --c 17. --path flow computes in the noise of a flow.
"""

from __future__ import annotations

import argparse

from glo_lightning.commands.parser import CommandParser, write_picture
from glo_lightning.explore.interactive import load_run


def main(arguments: list[str]) -> None:
    parser = CommandParser(__doc__, "arithmetic.png", "the picture")
    for term in "abc":
        parser.add_argument(f"--{term}", nargs="+", required=True, metavar="IMAGE", help="index, file or name=value")
    help_ = "factor of the difference a - b; with labels, 1.2 shows more of what is added"
    parser.add_argument("--strength", type=float, default=1.0, help=help_)
    parser.add_argument("--path", default="line", choices=["flow", "line"], help="in a flow's noise, or among codes")
    parser.add_picture_arguments()
    parser.call(arguments, add)


def add(options: argparse.Namespace) -> None:
    run = load_run(options.run, options.accelerator, options.root)
    made = run.arithmetic(options.a, options.b, options.c, options.strength, options.path)
    write_picture(options, run, "explore/arithmetic", made.picture, made.codes)
