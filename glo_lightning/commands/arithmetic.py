"""Adds and subtracts images: glo arithmetic RUN --a IMAGES... --b IMAGES... --c IMAGES...

Generates the image of the code strength * (a - b) + c. Each of a, b and c is the mean code of one or several images:
indices of training images, image files, which are encoded first, or name=value, for the mean code of the training
images with that label: --a glasses=sunglasses --b glasses= --c 17. Let b be the label that c has, and a the label that
it shall get: --a skin=ae5d29 --b skin=ffdbb4 --c 17. --path flow computes in the noise of a flow.
"""

from __future__ import annotations

import argparse

from glo_lightning.explore.interactive import load_run
from glo_lightning.explore.outputs import write_picture


def run(options: argparse.Namespace) -> None:
    run = load_run(options.run, options.accelerator, options.root)
    made = run.arithmetic(options.a, options.b, options.c, options.strength, options.path)
    write_picture(options, run, "explore/arithmetic", made.picture, made.codes)
