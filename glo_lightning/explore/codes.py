"""Codes: of images by name, of new images, in files; and images of codes."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from glo_lightning.data.image_files import read_images
from glo_lightning.encoding import BETAS, STARTS, TRIAL_STEPS, WARM_START_BETAS, Generate, starting_codes
from glo_lightning.errors import InputError, check_at_least, decoding
from glo_lightning.explore.encoder import Encoder, load_encoder
from glo_lightning.explore.pictures import SIZE
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import write_json, write_whole
from glo_lightning.generator import code_side
from glo_lightning.images import decode_image, from_uint8, to_uint8
from glo_lightning.memory import check_fits

log = logging.getLogger(__name__)

MAX_NUMBER = 1e15  # in a code: distances of codes stay finite
ImageName = str | Image.Image  # see ``codes_by_name``


@torch.no_grad()
def generate(generator: Generate, codes: Tensor) -> Tensor:
    """Generate images (B, C, H, W) in [-1, 1] of codes (B, D), 128 at a time; ``generator`` in eval mode."""
    return torch.cat([generator(batch) for batch in codes.split(128)])


def check_images_fit(run: TrainedRun, key: str, value: object, num: int) -> None:
    """Raise InputError where ``num`` images of a run, and a picture of them, do not fit into memory."""
    side = max(run.model.hparams["image_size"], SIZE)
    check_fits(key, value, f"{num} images", 48 * num * side**2)


def codes_by_name(run: TrainedRun, names: Sequence[ImageName]) -> Tensor:
    """Find the codes (M, D), on the model's device, of images by name.

    A name is the index of a training image, such as ``17``; ``name=value``, for the mean code of the training images
    with that label; a saved code, see ``saved_file``; or an image, a file or a Pillow image, which is encoded.

    Raises:
        InputError: for an index out of range, a file that is neither an image nor a code of this run, or a label that
            no training image has.
    """
    codes, files = torch.empty(len(names), run.codes.shape[1], device=run.codes.device), []
    for position, name in enumerate(names):
        rows = _rows(run, name)
        if rows is not None:
            codes[position] = run.codes[rows.to(run.codes.device)].mean(0)
        elif isinstance(name, str) and (file := saved_file(run, name)):
            codes[position] = _saved_code(run, file)
        else:
            files.append(position)
    if files:
        images = torch.stack([_image(run, names[position]) for position in files])
        codes[files] = encode_images(run, images, load_encoder(run))
    return codes


def codes_and_images(run: TrainedRun, names: Sequence[ImageName]) -> tuple[Tensor, Tensor]:
    """Find the codes and the images of names; see ``codes_by_name``.

    Returns:
        Codes (M, D) on the model's device, and images (M, C, H, W), uint8: of a label the first training image that has
        it, of a saved code the generated one.
    """
    images = torch.stack([_image(run, name) for name in names])  # first: wrong files are reported early
    return codes_by_name(run, names), images


def encode_images(
    run: TrainedRun,
    images: Tensor,
    encoder: Encoder | None = None,
    starts: Sequence[str] = STARTS,
    steps: int | None = None,
    loss: nn.Module | None = None,
) -> Tensor:
    """Find codes (M, D) for images (M, C, H, W), uint8, that are not training images; see ``GLO.encode``.

    An encoder's codes are the only start of 30 steps or fewer, one more start of more, and the answer of 0 steps. By
    default there are 30 steps with an encoder, and 150 without.

    Raises:
        InputError: see ``check_steps``.
    """
    model = run.model
    if steps is None:
        steps = 150 if encoder is None else TRIAL_STEPS
    check_steps(steps, encoder)
    targets, found, betas = from_uint8(images.to(model.device)), [], BETAS
    if encoder is not None:
        found.append(encoder.encode(targets, model)[:, None])
        if steps < 1:
            return found[0][:, 0]
    if encoder is None or steps > TRIAL_STEPS:
        pca = (model.n_pca, model.whiten, code_side(model.generator))
        found.append(starting_codes(run.trained_codes, run.pca_images(), targets, starts, *pca))
    else:
        betas = WARM_START_BETAS
    return model.encode(targets, starts=torch.cat(found, dim=1), steps=steps, loss=loss, betas=betas)


def check_steps(steps: int, encoder: Encoder | None) -> None:
    """Raise InputError for negative steps, and for none without an encoder."""
    check_at_least("steps", steps, 0)
    if steps == 0 and encoder is None:
        raise InputError("steps", steps, "needs an encoder. Fit one by encode.py RUN --fit_encoder, or give more.")


def is_label(name: ImageName) -> TypeGuard[str]:
    """Whether a name is ``name=value``, and not the path of a file."""
    return isinstance(name, str) and "=" in name and not Path(name).exists()


def _rows(run: TrainedRun, name: ImageName) -> Tensor | None:
    """The training images that a name means, by row; None for another image."""
    if isinstance(name, Image.Image):
        return None
    if is_label(name):
        rows = run.rows_with([name])
        if not len(rows):
            raise InputError("image", name, "no training image has this label. Give a value that some have.")
        return rows
    if not re.fullmatch(r"[+-]?\d+", name):
        return None
    num_images = len(run.codes)
    if not 0 <= int(name) < num_images:
        remedy = f"the run has {num_images} images. Give an index from 0 to {num_images - 1}, or a file."
        raise InputError("image", name, remedy)
    if not (run.rows == int(name)).any():
        raise InputError("image", name, "could not be read in the training, and has no code. Give another index.")
    return torch.tensor([int(name)])


def saved_file(run: TrainedRun, name: str) -> Path | None:
    """Find the file of a saved code: ``FILE.npy``, or its name in ``codes_folder`` with or without ``.npy``."""
    kept = run.codes_folder / f"{name.removesuffix('.npy')}.npy"
    if Path(name).name == name and not os.path.exists(name) and os.path.isfile(kept):
        return kept
    return Path(name) if name.endswith(".npy") else None


def _saved_code(run: TrainedRun, file: Path) -> Tensor:
    codes = load_codes(run, file)
    if len(codes) > 1:
        raise InputError("code file", file, f"holds {len(codes)} codes. Give a file with one.")
    return codes[0]


def _image(run: TrainedRun, name: ImageName) -> Tensor:
    """The image (C, H, W), uint8, of a name."""
    if isinstance(name, Image.Image):
        return decode_image(name, run.data.image_format)
    rows = _rows(run, name)
    if rows is not None:
        return run.data.dataset[int(rows[0])][0]
    if file := saved_file(run, name):
        return to_uint8(run.model(_saved_code(run, file)[None])[0]).cpu()
    images, _ = read_images([Path(name)], run.data.image_format)
    if len(images) > 1:
        raise InputError("image", name, f"holds {len(images)} images. Give a file with one.")
    return images[0]


def save_codes(path: Path, codes: Tensor, digest: str) -> None:
    """Write codes (M, D) as float32, and ``<path>.json`` with the digest of their run."""
    path = path.absolute()
    content = io.BytesIO()
    np.save(content, codes.cpu().numpy(), allow_pickle=False)
    write_whole(path, lambda file: file.write(content.getbuffer()))
    write_json(about_file(path), {"run": digest, "sha256": hashlib.sha256(content.getbuffer()).hexdigest()})


def load_codes(run: TrainedRun, file: str | Path) -> Tensor:
    """Load codes (M, D) that were saved from a run, onto its device; a file of one code may be (D,).

    Without a digest beside the file only its shape is checked.

    Raises:
        InputError: for a file without codes, or with those of another run.
    """
    path, latent_dim = Path(file), run.codes.shape[1]
    with decoding("code file", path, "Give a .npy of codes."):
        content = path.read_bytes()
        codes = np.load(io.BytesIO(content), allow_pickle=False)
        about = json.loads(about_file(path).read_bytes()) if about_file(path).is_file() else None
    is_float = isinstance(codes, np.ndarray) and codes.dtype.kind == "f"
    if not is_float or not (np.abs(codes.astype(np.float64)) < MAX_NUMBER).all():
        raise InputError("code file", path, f"does not hold floats below {MAX_NUMBER:g}. Give a .npy of codes.")
    if codes.shape[-1:] != (latent_dim,) or codes.ndim > 2 or not len(codes):
        remedy = f"is of shape {codes.shape}, codes of this run are (M, {latent_dim}). Give such codes."
        raise InputError("code file", path, remedy)
    if about is None:
        log.info("%s has no digest beside it: its codes may be another run's", path)
    elif not isinstance(about, dict) or about.get("run") != run.digest:
        raise InputError("code file", path, "was saved from another run, or before it was continued. Give that run.")
    elif about.get("sha256", digest := hashlib.sha256(content).hexdigest()) != digest:
        raise InputError("code file", path, "has changed since it was saved. Save the codes again.")
    return torch.from_numpy(codes.reshape(-1, latent_dim).astype(np.float32)).to(run.codes)


def about_file(path: Path) -> Path:
    """The file with the digest of the run whose codes ``path`` holds."""
    return path.with_name(f"{path.name}.json")
