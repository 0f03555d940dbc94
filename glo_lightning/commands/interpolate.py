"""Interpolates between images: glo interpolate RUN START END [START END ...] [--path flow] [--steps 9]

START and END are indices of training images, image files, which are encoded first, or name=value: the mean code of the
training images with that label. Each pair has a row for each --path: through the noise of a flow, where codes lie (the
default where there are enough codes for a good flow), on the straight line between the codes, or on the great arc.
--sharpness also measures, over random pairs of training images, how sharp images half-way are beside those at the ends.
--weights mixes all the images into one instead, by a weight each; an image may also be a saved code, FILE.npy.
"""

from __future__ import annotations

import argparse

import torch

from glo_lightning.commands.parser import refuse_unused
from glo_lightning.errors import check_at_least
from glo_lightning.explore.codes import check_images_fit, codes_and_images, codes_by_name, generate
from glo_lightning.explore.editing import Mixer, check_pairs, interpolation_strips, label_cells
from glo_lightning.explore.flows import default_path, interpolation
from glo_lightning.explore.interactive import load_run
from glo_lightning.explore.outputs import write_picture
from glo_lightning.explore.path_metrics import random_pairs
from glo_lightning.explore.paths import gradient_magnitude
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import TrainedRun


def run(options: argparse.Namespace) -> None:
    if options.weights is None:
        check_pairs(options.images)
    else:
        refuse_unused(options, "with --weights, which makes one image", "steps", "animation")
    check_at_least("sharpness", options.sharpness, 0)
    run = load_run(options.run, options.accelerator, options.root)
    paths = list(dict.fromkeys(options.path or [default_path(run)]))
    check_images_fit(run, "sharpness", options.sharpness, 3 * options.sharpness)
    if run.data_or_none is None:
        codes = codes_by_name(run, options.images)
        images = generate(run.model, codes).cpu()
    else:
        codes, images = codes_and_images(run, options.images)
    if options.weights is not None:
        mixes = torch.stack([Mixer(run, codes, path)(options.weights) for path in paths])
        rows = [[*images, "", mixed] for mixed in generate(run.model, mixes).cpu()]
        columns = [*(f"{weight:g}" for weight in options.weights), "  ", "mixed"]
        title = "A mix: one code among those of these images, by their weights"
        write_picture(options, run, "explore/mix", picture(rows, title, columns, paths), mixes)
    else:
        ends = label_cells(options.images, images)
        strips, codes, frames = interpolation_strips(run, codes, ends, paths, options.steps)
        write_picture(options, run, "explore/interpolation", strips, codes, frames)
    if options.sharpness:
        print_sharpness(run, paths, options.sharpness)


def print_sharpness(run: TrainedRun, paths: list[str], num: int) -> None:
    """Print the mean gradient magnitude half-way between random pairs, over that at their ends."""
    trained = run.trained_codes
    first, second = random_pairs(len(trained), num)
    for name in paths:
        codes = interpolation(run, name)(trained[first], trained[second], 3, run.model.project)
        start, middle, end = (gradient_magnitude(generate(run.model, places)).mean() for places in codes)
        print(f"{name}: half-way {num} pairs are {float(2 * middle / (start + end)):.2f} times as sharp as their ends")
