"""Finds codes for images that the run has not seen: python scripts/encode.py RUN IMAGES... [--mask FILE] [--output DIR]

IMAGES are files, folders or LMDBs. The generator stays as it is; each image's code is sought by gradient descent from
several starts. The output folder holds targets.png, reconstructions.png, codes.npy, (M, D), and metrics.json; with a
mask, whose black pixels are missing, filled.png as well: the images with these pixels taken from the reconstructions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torchvision.utils import make_grid, save_image

from glo_lightning.encoding import STARTS
from glo_lightning.errors import InputError, check_at_least
from glo_lightning.explore.commands import CommandParser, output_folder
from glo_lightning.explore.edits import filled, read_mask
from glo_lightning.explore.evaluation import generate
from glo_lightning.explore.trained_run import load_run
from glo_lightning.images import from_uint8, to_unit
from glo_lightning.losses import make_loss


def main() -> None:
    parser = CommandParser(__doc__, "encoded", "the folder that it writes")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGES", help="image files, folders or LMDBs")
    parser.add_argument("--mask", type=Path, help="an image of the run's size; black pixels are missing")
    parser.add_argument("--steps", type=int, default=150, help="of the best start, at most")
    parser.add_argument("--loss", help="lap_l1, l2 or the path of a class; the run's if not given")
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    parser.call(lambda: run(parser.parse_args()))


def bytes_of(mask: Path) -> bytes:
    try:
        return mask.read_bytes()
    except OSError as error:
        raise InputError("mask", mask, f"cannot be read ({error.strerror}); give an image file") from error


def run(options: argparse.Namespace) -> None:
    check_at_least("steps", options.steps, 1)
    if options.loss:
        make_loss(options.loss)
    trained = load_run(options.run, options.accelerator, options.root)
    image_size = trained.model.hparams["image_size"]
    mask = read_mask(bytes_of(options.mask), options.mask, image_size) if options.mask else None
    pixels, names = trained.read(options.images)
    loss = make_loss(options.loss, image_size).to(trained.model.device) if options.loss else None
    codes = trained.encode(pixels, options.starts, mask=mask, loss=loss, steps=options.steps, progress=True)
    generated = generate(trained.model, codes).cpu()

    images = from_uint8(pixels)
    known = torch.ones_like(images[:1, :1]) if mask is None else mask
    errors = ((to_unit(generated) - to_unit(images)) * known).square().sum(dim=(1, 2, 3)) / (
        images.shape[1] * known.sum()
    )
    psnr = (-10 * torch.log10(errors)).tolist()
    mean = float(-10 * torch.log10(errors.mean()))
    for name, value in zip(names, psnr, strict=True):
        print(f"{name}: PSNR {value:.2f} dB")
    print(f"all {len(names)} images: PSNR {mean:.2f} dB")
    pictures = {"targets": images * known + (1 - known), "reconstructions": generated}
    if mask is not None:
        pictures["filled"] = filled(pixels, generated, mask)
    metrics = {"psnr": mean, "images": [{"name": n, "psnr": p} for n, p in zip(names, psnr, strict=True)]}
    with output_folder(options.output) as folder:
        for name, shown in pictures.items():
            save_image(make_grid(to_unit(shown)), folder / f"{name}.png")
        np.save(folder / "codes.npy", codes.cpu().numpy())
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=1))
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
