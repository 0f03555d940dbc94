"""Draws new images: python scripts/sample.py RUN [--prior flow] [--given NAME=VALUE ...] [--num 24] [--seed 0]

A prior is fitted to the codes of the training images, and codes are drawn from it: a flow where there are 1,000 codes
and 20 for each dimension, else a mixture; --prior gaussian is the paper's, and instant. A flow is kept in the run
folder. --given asks a flow for attributes that the images have, more strictly by more --guidance. Beside each
image stand the training images nearest to it, by code and by pixels: who sees the same image twice sees that it was
memorised.
"""

from __future__ import annotations

import argparse
import itertools

import torch
from torch import Tensor

from glo_lightning.explore.commands import CommandParser, write_picture
from glo_lightning.explore.evaluation import generate
from glo_lightning.explore.flow import GUIDANCE
from glo_lightning.explore.paths import nearest
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.priors import PRIORS, default_prior, make_prior, sample_codes
from glo_lightning.explore.trained_run import load_run
from glo_lightning.images import to_uint8

SHOWN = 64  # samples in the picture, at most; --codes has them all
PER_ROW = 4


def main() -> None:
    parser = CommandParser(__doc__, "samples.png", "the picture")
    parser.add_argument("--prior", help=f"{', '.join(PRIORS)} or the path of a class (default: flow, or mixture)")
    parser.add_argument("--n_components", type=int, help="of the mixture (default: by BIC)")
    parser.add_argument("--num", type=int, default=24, help=f"of samples; the picture shows {SHOWN} at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0, help="less than 1: more typical, less different")
    parser.add_argument("--given", nargs="+", default=[], metavar="NAME=VALUE", help="attributes of all samples")
    parser.add_argument(
        "--guidance", type=float, default=GUIDANCE, help="of a flow; 1 draws as learned, more is stricter"
    )
    parser.add_picture_arguments()
    parser.call(lambda: sample(parser.parse_args()))


def sample(options: argparse.Namespace) -> None:
    if options.prior is not None:
        make_prior(options.prior, options.n_components)
    trained = load_run(options.run, options.accelerator, options.root)
    table, project = trained.model.latents.weight, trained.model.project
    given = trained.given(options.given) if options.given else None
    name = options.prior or ("flow" if options.given else default_prior(*table.shape))
    prior = trained.prior(name, options.n_components)
    how = (options.seed, options.temperature, given, options.guidance)
    codes = sample_codes(prior, table, options.num, project, *how)

    images = generate(trained.model, codes[:SHOWN]).cpu()
    cells: list[tuple[Tensor | str, ...]] = [(image,) for image in images]
    headings = ["sample"]
    if trained.found_data is not None:
        by_code = trained.originals(nearest(codes[:SHOWN], [(table, torch.arange(len(table)))]))
        by_pixels = trained.originals(nearest(to_uint8(images), trained.data.ordered_dataloader()))
        cells = [(*triple, "") for triple in zip(images, by_code, by_pixels, strict=True)]
        headings = ["sample", "nearest\nby code", "nearest\nby pixels", "   "]
    rows = [list(itertools.chain(*cells[first : first + PER_ROW])) for first in range(0, len(cells), PER_ROW)]
    asked = f", given {' '.join(options.given)}" if options.given else ""
    title = f"New images, drawn from the {name} prior{asked}"
    title += ", and the training images most like them" if len(headings) > 1 else ""
    write_picture(options, trained, "explore/samples", picture(rows, title, headings * len(cells[:PER_ROW])), codes)


if __name__ == "__main__":
    main()
