"""Draws new images: glo sample RUN [--prior flow] [--condition NAME=VALUE ...] [--num 24] [--seed 0]

Codes are drawn from a prior that is fitted to the codes of the training images. The default is a flow where there are
1,000 codes and 20 for each dimension (of a place, where codes have places), else a mixture; --prior gaussian is the
paper's. A fitted flow is saved in the run folder. Where the images have labels, a flow draws these first, each with its
frequency and independently of the others; --condition chooses some of them, more strictly with more --guidance. Beside
each sample stand the training images nearest to it, by code and by pixels, so that a memorised image is seen. --decode
FILE.npy shows saved codes instead, of --codes or of the page of browse.py.
"""

from __future__ import annotations

import argparse

import torch

from glo_lightning.commands.parser import refuse_unused
from glo_lightning.errors import check_range
from glo_lightning.explore.codes import codes_by_name, generate, load_codes, saved_file
from glo_lightning.explore.interactive import load_run
from glo_lightning.explore.outputs import write_picture
from glo_lightning.explore.sampling import MAX_SHOWN, draw_codes, samples_picture


def run(options: argparse.Namespace) -> None:
    if options.decode:
        drawing = ("prior", "n_components", "num", "seed", "temperature", "condition", "guidance", "pick")
        refuse_unused(options, "with --decode, which shows saved codes", *drawing)
    run = load_run(options.run, options.accelerator, options.root)
    if options.decode:
        names = options.decode
        files = [saved_file(run, name) for name in names]
        found = [load_codes(run, f) if f else codes_by_name(run, [n]) for n, f in zip(names, files, strict=True)]
        codes, title = torch.cat(found), f"The codes of {' '.join(names)}, decoded"
    else:
        labels = (options.condition, options.guidance, options.n_components)
        codes, title = draw_codes(run, options.num, options.prior, options.seed, options.temperature, *labels)
        for number in options.pick or ():
            check_range("pick", number, 1, options.num)
        codes = codes if options.pick is None else codes[[number - 1 for number in options.pick]]
    images = generate(run.model, codes[:MAX_SHOWN]).cpu()
    shown = samples_picture(run, codes, images, title, "decoded" if options.decode else "sample")
    write_picture(options, run, "explore/samples", shown, codes)
