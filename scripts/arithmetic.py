"""Adds and subtracts images: python scripts/arithmetic.py RUN --a IMAGES... --b IMAGES... --c IMAGES...

Generates the image of the code strength * (a - b) + c. Each of a, b and c is the mean code of one or several images:
indices of training images, image files, which are encoded first, or name=value, for the mean code of the training
images with that label: --a glasses=sunglasses --b glasses= --c 17. Let b be the label that c has, and a the label that
it shall get: --a skin=ae5d29 --b skin=ffdbb4 --c 17. --path flow computes in the noise of a flow.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from glo_lightning.errors import check_range
from glo_lightning.explore.codes import codes_and_images, generate, is_label
from glo_lightning.explore.commands import CommandParser, write_picture
from glo_lightning.explore.flows import edit_space
from glo_lightning.explore.neighbours import nearest
from glo_lightning.explore.paths import MAX_AMOUNT
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import load_run


def main() -> None:
    parser = CommandParser(__doc__, "arithmetic.png", "the picture")
    for term in "abc":
        parser.add_argument(f"--{term}", nargs="+", required=True, metavar="IMAGE", help="index, file or name=value")
    help_ = "factor of the difference a - b; with labels, 1.2 shows more of what is added"
    parser.add_argument("--strength", type=float, default=1.0, help=help_)
    parser.add_argument("--path", default="line", choices=["flow", "line"], help="in a flow's noise, or among codes")
    parser.add_picture_arguments()
    parser.call(add)


def add(options: argparse.Namespace) -> None:
    check_range("strength", options.strength, -MAX_AMOUNT, MAX_AMOUNT)
    run = load_run(options.run, options.accelerator, options.root)
    names = [options.a, options.b, options.c]
    sizes = [len(term) for term in names]
    codes, images = codes_and_images(run, [*options.a, *options.b, *options.c])
    enter, leave = edit_space(run, options.path)
    a, b, c = (places.mean(0) for places in enter(codes).split(sizes))
    codes = run.model.project(leave(torch.stack([a, b, c, options.strength * (a - b) + c])))
    terms = images.split(sizes)

    def cell(term: int, row: int) -> Tensor | str | None:
        if row >= sizes[term]:
            return None
        name = names[term][row]
        return name.replace("=", "=\n") if is_label(name) else terms[term][row]

    rows = [[cell(0, row), None, cell(1, row), None, cell(2, row)] for row in range(max(sizes))]
    *means, result = generate(run.model, codes).cpu()
    # the mean of many codes lies where no image does
    cells = ["their mean" if any(map(is_label, term)) else mean for term, mean in zip(names, means, strict=True)]
    (closest,) = run.images(nearest(codes[3:], [(run.trained_codes, run.rows)]).tolist())
    rows.append([cells[0], "-", cells[1], "+", cells[2], "=", result, "", closest])
    formula = "a - b + c" if options.strength == 1 else f"{options.strength:g} (a - b) + c"
    columns = ["a", " -  ", "b", " + ", "c", " = ", formula, "  ", "nearest\ntraining image"]
    captions = ["images", *[""] * (max(sizes) - 1), "their codes\n(mean)" if max(sizes) > 1 else "their codes"]
    title = "Arithmetic: the codes of a, minus those of b, plus those of c, make a new image"
    write_picture(options, run, "explore/arithmetic", picture(rows, title, columns, captions), codes)


if __name__ == "__main__":
    main()
