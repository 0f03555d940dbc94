"""Draws new images: python scripts/sample.py RUN [--prior flow] [--given NAME=VALUE ...] [--num 24] [--seed 0]

A prior is fitted to the codes of the training images, and codes are drawn from it: a flow where there are 1,000 codes
and 20 for each dimension, else a mixture; --prior gaussian is the paper's, and instant. A flow is kept in the run
folder. Where the images have attributes it draws these first, each as often as they have it and whatever the others
are; --given asks for some, more strictly by more --guidance. Beside each image stand the training images nearest to it,
by code and by pixels: who sees the same image twice sees that it was memorised. --decode FILE.npy shows codes that were
saved, by --codes or from the page of browse.py, in their place.
"""

from __future__ import annotations

import argparse
import itertools

import torch
from torch import Tensor

from glo_lightning.errors import InputError
from glo_lightning.explore.commands import CommandParser, write_picture
from glo_lightning.explore.editing import nearest_rows
from glo_lightning.explore.metrics import generate
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import TrainedRun, load_run
from glo_lightning.priors.prior import PRIORS, default_prior, make_prior, sample_codes

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
    help_ = "of a flow; 1 draws as learned, more is stricter (default: 1.5, or 2 without attributes)"
    parser.add_argument("--guidance", type=float, help=help_)
    help_ = "instead, the images of these codes: saved ones (.npy), or those of images by index, file, name=value"
    parser.add_argument("--decode", nargs="+", metavar="FILE.npy", help=help_)
    parser.add_picture_arguments()
    parser.call(lambda: sample(parser.parse_args()))


def sample(options: argparse.Namespace) -> None:
    if options.decode and (options.prior or options.given):
        key, value = ("prior", options.prior) if options.prior else ("given", " ".join(options.given))
        raise InputError(key, value, "draws codes, and --decode takes those of its files; give one of the two")
    if options.prior is not None:
        make_prior(options.prior, options.n_components)
    trained = load_run(options.run, options.accelerator, options.root)
    codes, title = decoded(trained, options.decode) if options.decode else drawn(trained, options)
    images = generate(trained.model, codes[:SHOWN]).cpu()
    cells: list[tuple[Tensor | str, ...]] = [(image,) for image in images]
    headings = ["decoded" if options.decode else "sample"]
    if trained.found_data is not None:
        rows_by = nearest_rows(trained, codes[:SHOWN], images)
        cells = [(*triple, "") for triple in zip(images, *(trained.images(rows) for rows in rows_by), strict=True)]
        headings = [*headings, "nearest\nby code", "nearest\nby pixels", "   "]
        title += ", and the training images most like them"
    rows = [list(itertools.chain(*cells[first : first + PER_ROW])) for first in range(0, len(cells), PER_ROW)]
    write_picture(options, trained, "explore/samples", picture(rows, title, headings * len(cells[:PER_ROW])), codes)


def drawn(trained: TrainedRun, options: argparse.Namespace) -> tuple[Tensor, str]:
    """Codes (num, D) drawn from the prior, and a title for them."""
    table = trained.model.latents.weight
    given = trained.given(options.given) if options.given else None
    name = options.prior or ("flow" if options.given else default_prior(*table.shape))
    prior = trained.prior(name, options.n_components)
    how = (options.seed, options.temperature, given, options.guidance)
    asked = f", given {' '.join(options.given)}" if options.given else ""
    codes = sample_codes(prior, table, options.num, trained.model.project, *how)
    return codes, f"New images, drawn from the {name} prior{asked}"


def decoded(trained: TrainedRun, names: list[str]) -> tuple[Tensor, str]:
    """The codes (M, D) of the names, and a title for them."""
    codes = [trained.saved_codes(name) if name.endswith(".npy") else trained.codes([name]) for name in names]
    return torch.cat(codes), f"The codes of {' '.join(names)}, decoded"


if __name__ == "__main__":
    main()
