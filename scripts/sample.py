"""Draws new images: python scripts/sample.py RUN [--prior gaussian] [--num 24] [--seed 0] [--temperature 1]

A prior is fitted to the codes of the training images, and codes are drawn from it. Beside each image the picture has
the training images nearest to it, by code and by pixels: whoever sees the same image twice sees that it was memorised.
"""

from __future__ import annotations

import argparse
import itertools

import torch

from glo_lightning.explore.commands import CommandParser, write_picture
from glo_lightning.explore.evaluation import generate
from glo_lightning.explore.paths import nearest
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.priors import PRIORS, make_prior, sample_codes
from glo_lightning.explore.trained_run import load_run
from glo_lightning.images import to_uint8

SHOWN = 64  # samples in the picture, at most; --codes has them all
PER_ROW = 4


def main() -> None:
    parser = CommandParser(__doc__, "samples.png", "the picture")
    parser.add_argument("--prior", default="gaussian", help=f"{', '.join(PRIORS)} or the path of a class")
    parser.add_argument("--n_components", type=int, help="of the mixture (default: by BIC)")
    parser.add_argument("--num", type=int, default=24, help=f"of samples; the picture shows {SHOWN} at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0, help="less than 1: more typical, less different")
    parser.add_picture_arguments()
    parser.call(lambda: sample(parser.parse_args()))


def sample(options: argparse.Namespace) -> None:
    prior = make_prior(options.prior, options.n_components)
    trained = load_run(options.run, options.accelerator)
    table = trained.model.latents.weight
    prior.fit(table)
    codes = sample_codes(prior, table, options.num, trained.model.project, options.seed, options.temperature)

    images = generate(trained.model, codes[:SHOWN]).cpu()
    by_code = trained.images(nearest(codes[:SHOWN], [(table, torch.arange(len(table)))]).tolist())
    by_pixels = trained.images(nearest(to_uint8(images), trained.data.ordered_dataloader()).tolist())
    triples = [[*triple, ""] for triple in zip(images, by_code, by_pixels, strict=True)]
    rows = [list(itertools.chain(*triples[first : first + PER_ROW])) for first in range(0, len(triples), PER_ROW)]
    headings = ["sample", "nearest\nby code", "nearest\nby pixels", "   "] * len(triples[:PER_ROW])
    title = f"New images, drawn from the {options.prior} prior, and the training images most like them"
    write_picture(options, trained, "explore/samples", picture(rows, title, headings), codes)


if __name__ == "__main__":
    main()
