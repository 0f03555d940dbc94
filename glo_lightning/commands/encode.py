"""Finds codes for new images: glo encode RUN IMAGES... [--output DIR]

IMAGES are files, folders or LMDBs. Each image's code is found by gradient descent from several starts; the generator
does not change. The output folder holds targets.png, reconstructions.png, codes.npy, (M, D), and metrics.json. The
PSNR stands beside that of a PCA of the training images, which also tells whether an image is like them at all.

--fit_encoder fits an encoder to the run, in two minutes at most, and saves it in the run folder. From then on 30 steps
from its code are the default; of more steps its code is one of the starts, and with --steps 0 it is the result.

--operator says how IMAGES were degraded: mask (--mask FILE, whose black pixels are missing), down4 (reduced to a
quarter of the side), blur, grey, or the path of a module's class; --operator_args '{"sigma": 3}' are its arguments. The
descent then looks for images that the operator maps to IMAGES, and the PSNR is that of what it maps them to. The folder
also holds the restored images, restored.png (with --mask filled.png), and comparison.png, with the columns degraded,
IMAGES; generated, from the codes; and restored, the generated image changed as little as makes it agree with IMAGES.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from glo_lightning.commands.parser import refuse_unused
from glo_lightning.data.image_files import read_images
from glo_lightning.encoding import TRIAL_STEPS
from glo_lightning.errors import InputError, check_at_least, check_range
from glo_lightning.explore.codes import encode_images, generate, save_codes
from glo_lightning.explore.encoder import fit_and_save_encoder, load_encoder
from glo_lightning.explore.interactive import load_run
from glo_lightning.explore.metrics import pca_psnr
from glo_lightning.explore.operators import Mask, check_sizes, make_operator
from glo_lightning.explore.outputs import output_folder
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.restoration import Restoration, enforce_consistency
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.images import ImageFormat, from_uint8, psnr, to_uint8, to_unit
from glo_lightning.losses import find_loss, make_loss

MAX_COMPARED = 16  # images in the comparison
UNLIKE = 3.0  # dB below the worst training image
OF_OPERATORS = ("prior_weight", "noise_sigma")  # flags that weigh what an operator leaves open


def run(options: argparse.Namespace) -> None:
    check(options)
    run = load_run(options.run, options.accelerator, options.root)
    operator = find_operator(options, run) if options.operator or options.mask else None
    images, names = read(options, run, operator)
    loss = None
    if options.loss:
        loss = make_loss(find_loss(options.loss), images.shape[-1], images.shape[1]).to(run.model.device)
    if options.fit_encoder:
        fit_and_save_encoder(run)
    if not names:
        return
    encoder = load_encoder(run) if options.encoder == "auto" else None
    if options.steps is None:
        is_quick = encoder is not None and operator is None and "starts" not in options.given
        options.steps = TRIAL_STEPS if is_quick else 150
    descent = {"starts": options.starts, "steps": options.steps, "loss": loss}
    if encoder is not None and options.steps <= TRIAL_STEPS:
        refuse_unused(options, f"with an encoder and at most {TRIAL_STEPS} steps, which start from its code", "starts")
    if operator is not None:
        restoration = Restoration(run, operator, encoder, options.prior_weight, options.noise_sigma)
        restore(options, restoration, images, names, descent)
        return
    codes = encode_images(run, to_uint8(images), encoder, **descent)
    generated = generate(run.model, codes).cpu()
    write(options, run, codes, names, {"targets": images, "reconstructions": generated}, (generated, images))


def check(options: argparse.Namespace) -> None:
    """Check what needs no run."""
    if not options.images and not options.fit_encoder:
        raise InputError("images", "", "there are none. Name files or folders, or give --fit_encoder.")
    check_at_least("steps", 0 if options.steps is None else options.steps, 0)
    check_range("prior_weight", options.prior_weight, 0, 1e6)
    if not 0 < options.noise_sigma <= 10:
        remedy = "must be more than 0, and at most 10. Give 0.05 for a twentieth of white."
        raise InputError("noise_sigma", options.noise_sigma, remedy)
    if options.mask and (options.operator not in (None, "mask") or options.operator_args):
        raise InputError("mask", options.mask, "is an operator itself. Give one of the two.")
    if not options.images:
        encoding = ("steps", "loss", "starts", "encoder", "operator", "operator_args", "mask", *OF_OPERATORS)
        refuse_unused(options, "without IMAGES to encode", *encoding, "output", "overwrite")
    if not (options.operator or options.mask):
        refuse_unused(options, "without --operator", "operator_args", *OF_OPERATORS)
    if options.steps == 0:
        refuse_unused(options, "with --steps 0, which takes the encoder's codes", "loss", "starts")


def find_operator(options: argparse.Namespace, run: TrainedRun) -> nn.Module:
    operator_args = {"file": str(options.mask)} if options.mask else options.operator_args
    size, channels = (run.model.hparams[key] for key in ("image_size", "channels"))
    return make_operator(options.operator or "mask", size, channels, operator_args)


def read(options: argparse.Namespace, run: TrainedRun, operator: nn.Module | None) -> tuple[Tensor, list[str]]:
    """Read IMAGES, (M, C, H, W) in [-1, 1], or, as an operator makes them, (M, c, h, h), and their names."""
    if not options.images:
        return torch.empty(0), []
    if operator is None or isinstance(operator, Mask):
        pixels, names = read_images(options.images, run.data.image_format)
        return from_uint8(pixels) if operator is None else operator(from_uint8(pixels)), names
    size, channels = (run.model.hparams[key] for key in ("image_size", "channels"))
    _, channels, _, size = operator(torch.zeros(1, channels, size, size)).shape
    check_sizes(options.images, size, options.operator)
    pixels, names = read_images(options.images, ImageFormat(size, channels, run.data.crop))
    return from_uint8(pixels), names


def restore(
    options: argparse.Namespace, restoration: Restoration, pictures: Tensor, names: list[str], descent: dict[str, Any]
) -> None:
    """Restore images from the pictures (M, c, h, h) that the operator made of them."""
    codes = restoration.find_codes(pictures, **descent)
    generated, operator = generate(restoration.run.model, codes).cpu(), restoration.operator.cpu()
    restored = enforce_consistency(generated, pictures, operator)
    mask = operator.mask[0] if isinstance(operator, Mask) else torch.ones(pictures.shape[2:])
    outputs = {"targets": pictures + (1 - mask), "reconstructions": generated}
    outputs["filled" if options.mask else "restored"] = restored
    degraded = operator(generated)[..., mask > 0]
    what = " of the pixels that are not missing" if isinstance(operator, Mask) else " of the {}x{} picture"
    what = what.format(*pictures.shape[2:])
    write(options, restoration.run, codes, names, outputs, (degraded, pictures[..., mask > 0]), what)


def write(
    options: argparse.Namespace,
    run: TrainedRun,
    codes: Tensor,
    names: list[str],
    pictures: dict[str, Tensor],
    measured: tuple[Tensor, Tensor],
    what: str = "",
) -> None:
    """Print the PSNR of generated images (M, ...) for targets, and fill the output folder.

    ``what`` says what an operator has compared; empty without one.
    """
    of_all, of_each = float(psnr(*measured)), psnr(*measured, per_image=True).tolist()
    by_pca = None if what else pca_psnr(run, to_uint8(pictures["targets"]))
    metrics: dict[str, Any] = {"psnr": of_all}
    for name, value in zip(names, of_each, strict=True):
        print(f"{name}: PSNR {value:.2f} dB{what}")
    beside = ""
    if by_pca is not None:
        title, of_images, of_training = by_pca
        mean = -10 * torch.log10(torch.pow(10, -of_images / 10).mean())  # of all pixels
        metrics["pca_psnr"] = float(mean)
        beside = f"; by {title} with as many dimensions {mean:.2f} dB"
    print(f"all {len(names)} images: PSNR {of_all:.2f} dB{what}{beside}")
    if by_pca is not None:
        report_unlike(names, of_images, of_training)
    metrics["images"] = [{"name": n, "psnr": p} for n, p in zip(names, of_each, strict=True)]
    with output_folder(options.output, options.overwrite) as folder:
        for name, images in pictures.items():
            save_image(make_grid(to_unit(images)), folder / f"{name}.png")
        if what:
            rows = list(zip(*(images[:MAX_COMPARED] for images in pictures.values()), strict=True))
            columns = ["degraded", "generated\nfrom the code", "restored:\nmade to agree\nwith degraded"]
            picture(rows, columns=columns).save(folder / "comparison.png")
        save_codes(folder / "codes.npy", codes, run.digest)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=1))
    print(f"wrote {options.output}")


def report_unlike(names: list[str], of_images: Tensor, of_training: Tensor) -> None:
    """Print which images the PCA reconstructs far worse than any training image, by their PSNR in dB."""
    least = float(of_training.min())
    for name, value in zip(names, of_images.tolist(), strict=True):
        if value < least - UNLIKE:
            why = f"PCA reaches {value:.1f} dB on it, and {least:.1f} or more on the first {len(of_training)} of them"
            print(f"{name}: unlike the training images, so its code says little about it ({why})")
