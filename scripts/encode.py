"""Finds codes for images that the run has not seen: python scripts/encode.py RUN IMAGES... [--output DIR]

IMAGES are files, folders or LMDBs. The generator stays as it is; each image's code is sought by gradient descent from
several starts. The output folder holds targets.png, reconstructions.png, codes.npy, (M, D), and metrics.json.

--fit_encoder fits an encoder to the run and keeps it in its folder, in two minutes at most. From then on its answer is
a start, of 30 steps or fewer the only one, and of --steps 0 the code itself.

--operator says what IMAGES have lost: mask (--mask FILE, whose black pixels are missing), down4 (they have a quarter of
the side), blur, grey, or the path of a module's class; --operator_args '{"sigma": 3}' are its arguments. Images are
then sought that the operator makes such pictures of. The folder also holds the restored images, restored.png (of --mask
filled.png), and comparison.png: the pictures, the plain answers, and these with what the pictures say for certain.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from glo_lightning.data.image_files import read_images
from glo_lightning.encoding import STARTS
from glo_lightning.errors import InputError, check_at_least
from glo_lightning.explore.commands import CommandParser
from glo_lightning.explore.editing import restoring_codes
from glo_lightning.explore.metrics import generate
from glo_lightning.explore.operators import Mask, check_sizes, make_operator, restored
from glo_lightning.explore.outputs import output_folder
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import TrainedRun, UseEncoder, load_run
from glo_lightning.images import ImageFormat, from_uint8, psnr, to_uint8, to_unit
from glo_lightning.losses import make_loss

SHOWN = 16  # images in the comparison


def main() -> None:
    parser = CommandParser(__doc__, "encoded", "the folder that it writes")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGES", help="image files, folders or LMDBs")
    parser.add_argument("--steps", type=int, default=150, help="of the best start, at most")
    parser.add_argument("--loss", help="lap_l1, l2 or the path of a class (default: the run's, of an operator l2)")
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    parser.add_argument("--fit_encoder", action="store_true", help="fits an encoder to the run and keeps it there")
    help_ = "auto: the one that is kept with the run, unless it was fitted to another checkpoint; none: descent alone"
    parser.add_argument("--encoder", default="auto", choices=get_args(UseEncoder), help=help_)
    parser.add_argument("--operator", help="what was done to IMAGES: mask, down4, blur, grey or the path of a class")
    parser.add_argument("--operator_args", type=arguments, metavar="JSON", help="of the operator")
    parser.add_argument("--mask", type=Path, help="--operator mask: an image of the run's size, black pixels missing")
    parser.add_argument("--prior_weight", type=float, default=0.0, help="of the flow's log-density of a code")
    help_ = "of the noise in IMAGES and what the generator lacks, white being 1: the larger, the more the prior counts"
    parser.add_argument("--noise_sigma", type=float, help=f"{help_} (default: 0.05)")
    parser.call(lambda: run(parser.parse_args()))


def arguments(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError
    return found


def run(options: argparse.Namespace) -> None:
    check(options)
    trained = load_run(options.run, options.accelerator, options.root)
    operator = find_operator(options, trained) if options.operator or options.mask else None
    images, names = read(options, trained, operator)
    if options.fit_encoder:
        trained.fit_encoder()
    if not names:
        return
    loss = make_loss(options.loss, images.shape[-1]).to(trained.model.device) if options.loss else None
    if operator is not None:
        restore(options, trained, operator, images, names, loss)
        return
    how = {"steps": options.steps, "encoder": options.encoder, "progress": True}
    codes = trained.encode(to_uint8(images), options.starts, loss=loss, **how)
    generated = generate(trained.model, codes).cpu()
    write(options, {"targets": images, "reconstructions": generated}, codes, names, generated, images)


def check(options: argparse.Namespace) -> None:
    """What can be said before the run is loaded."""
    if not options.images and not options.fit_encoder:
        raise InputError("images", "", "none are given; name files or folders, or --fit_encoder")
    check_at_least("steps", options.steps, 0)
    check_at_least("prior_weight", options.prior_weight, 0)
    if options.noise_sigma is not None and not 0 < options.noise_sigma < float("inf"):
        raise InputError("noise_sigma", options.noise_sigma, "must be more than 0; 0.05 is a twentieth of white")
    if options.mask and (options.operator not in (None, "mask") or options.operator_args):
        raise InputError("mask", options.mask, "is an operator itself; give one of the two")
    if options.operator_args and not options.operator:
        raise InputError("operator_args", options.operator_args, "are of an operator; give --operator")
    for key in ("prior_weight", "noise_sigma"):
        if getattr(options, key) and not (options.operator or options.mask):
            raise InputError(key, getattr(options, key), "weighs what an operator leaves open; give --operator")
    if options.loss:
        make_loss(options.loss)


def find_operator(options: argparse.Namespace, trained: TrainedRun) -> nn.Module:
    given = {"file": str(options.mask)} if options.mask else options.operator_args
    size, channels = (trained.model.hparams[key] for key in ("image_size", "channels"))
    return make_operator(options.operator or "mask", size, channels, given)


def read(options: argparse.Namespace, trained: TrainedRun, operator: nn.Module | None) -> tuple[Tensor, list[str]]:
    """IMAGES (M, C, H, W) in [-1, 1], or, as an operator made them, (M, c, h, h), and their names."""
    if not options.images:
        return torch.empty(0), []
    if operator is None or isinstance(operator, Mask):
        pixels, names = trained.read(options.images)
        return from_uint8(pixels) if operator is None else operator(from_uint8(pixels)), names
    size, channels = (trained.model.hparams[key] for key in ("image_size", "channels"))
    _, channels, _, size = operator(torch.zeros(1, channels, size, size)).shape
    check_sizes(options.images, size, options.operator)
    pixels, names = read_images(options.images, ImageFormat(size, channels, trained.data.crop))
    return from_uint8(pixels), names


def restore(
    options: argparse.Namespace,
    trained: TrainedRun,
    operator: nn.Module,
    pictures: Tensor,
    names: list[str],
    loss: nn.Module | None,
) -> None:
    """Writes the images that the operator made these pictures (M, c, h, h) of."""
    how = {"prior_weight": options.prior_weight, "progress": True}
    if options.noise_sigma is not None:
        how["noise_sigma"] = options.noise_sigma
    codes = restoring_codes(trained, pictures, operator, options.starts, options.steps, options.encoder, loss, **how)
    generated, operator = generate(trained.model, codes).cpu(), operator.cpu()
    whole = restored(generated, pictures, operator)
    known = operator.known[0] if isinstance(operator, Mask) else torch.ones(pictures.shape[2:])
    targets = pictures + (1 - known)
    shown = {"targets": targets, "reconstructions": generated, "filled" if options.mask else "restored": whole}
    seen = operator(generated)
    write(options, shown, codes, names, seen[..., known > 0], pictures[..., known > 0], beside=True)


def write(
    options: argparse.Namespace,
    pictures: dict[str, Tensor],
    codes: Tensor,
    names: list[str],
    made: Tensor,
    wanted: Tensor,
    beside: bool = False,
) -> None:
    """Prints the PSNR of images that were made (M, ...) for those wanted, and fills the output folder."""
    of_all, of_each = float(psnr(made, wanted)), psnr(made, wanted, per_image=True).tolist()
    for name, value in zip(names, of_each, strict=True):
        print(f"{name}: PSNR {value:.2f} dB")
    print(f"all {len(names)} images: PSNR {of_all:.2f} dB")
    metrics = {"psnr": of_all, "images": [{"name": n, "psnr": p} for n, p in zip(names, of_each, strict=True)]}
    with output_folder(options.output, options.overwrite) as folder:
        for name, shown in pictures.items():
            save_image(make_grid(to_unit(shown)), folder / f"{name}.png")
        if beside:
            rows = list(zip(*(shown[:SHOWN] for shown in pictures.values()), strict=True))
            picture(rows, columns=["given", "plain", "restored"]).save(folder / "comparison.png")
        np.save(folder / "codes.npy", codes.cpu().numpy())
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=1))
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
