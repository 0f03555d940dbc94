"""An encoder gives an image's code in milliseconds: two linear maps, fitted to a run and saved in its folder."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from glo_lightning.errors import InputError, decoding
from glo_lightning.explore.trained_run import TrainedRun, state_digest
from glo_lightning.files import disk_remedy, write_whole
from glo_lightning.images import from_uint8
from glo_lightning.module import GLO
from glo_lightning.priors.fitting import codes_digest, digest_of
from glo_lightning.priors.gaussian import Diagonal
from glo_lightning.priors.prior import sample_codes
from glo_lightning.progress import Progress

log = logging.getLogger(__name__)

VERSION = 3  # of the file
MAX_SECONDS = 110.0  # of the fit
FIRST_PAIRS = 16_384  # largest number of training images for the first map
STEP_PAIRS = 4096  # the same for the second map, and an eighth as many samples of a prior
BATCH = 32
RIDGE = 1e-3  # in mean variances of the inputs


class Encoder(nn.Module):
    """Maps images (B, C, H, W) in [-1, 1] to projected codes (B, D).

    A linear map of the image at 32 pixels gives a first code. The gradient of the squared error of its image is then
    mapped linearly to the code's remaining error: a step of descent whose metric is learned by regression, as in
    supervised descent (Xiong and De la Torre, CVPR 2013). Images smaller than 32 pixels are reduced to the next lower
    power of two.
    """

    def __init__(self, channels: int, image_size: int, latent_dim: int):
        super().__init__()
        self.size = 1 << min(5, int(math.log2(image_size)))
        self.first = skip_init(nn.Linear, channels * self.size**2, latent_dim)  # both are fitted, or loaded
        self.step = skip_init(nn.Linear, latent_dim, latent_dim)

    def forward(self, images: Tensor, model: GLO) -> Tensor:
        codes = model.project(self.first(self.pixels(images)))
        return model.project(codes + self.step(gradient(model, codes, images)))

    def encode(self, images: Tensor, model: GLO) -> Tensor:
        """Encode images (B, C, H, W) one at a time, so that a code does not depend on the other images."""
        return torch.cat([self(image[None], model) for image in images])

    def pixels(self, images: Tensor) -> Tensor:
        """The input of the first map, (B, C * 32 * 32)."""
        return F.adaptive_avg_pool2d(images, self.size).flatten(1)


def gradient(model: GLO, codes: Tensor, images: Tensor) -> Tensor:
    """The gradient (B, D) of each image's squared error with respect to its code."""
    with torch.inference_mode(False), torch.enable_grad():
        codes = codes.detach().clone().requires_grad_()
        return torch.autograd.grad(F.mse_loss(model(codes), images.clone(), reduction="sum"), codes)[0]


@torch.no_grad()
def fit_encoder(
    model: GLO, read: Callable[[list[int]], Tensor], max_seconds: float = MAX_SECONDS, rows: Tensor | None = None
) -> Encoder:
    """Fit an encoder to the model's codes on its device, with a progress bar.

    Both maps are ridge regressions: to the training images' codes, and to the errors of the first map. The second also
    gets samples of a diagonal Gaussian and their images, an eighth more pairs.

    Args:
        model: in eval mode, its weights without gradients.
        read: reads the training images (b, C, H, W), uint8, of rows.
        max_seconds: no more images are read after this time.
        rows: the rows that have an image; all if not given.
    """
    codes, began = model.latents.weight.detach(), time.monotonic()
    encoder = Encoder(model.hparams["channels"], model.hparams["image_size"], codes.shape[1]).to(codes.device).eval()
    rows = torch.arange(len(codes)) if rows is None else rows
    trained = codes[rows.to(codes.device)]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:FIRST_PAIRS]]
    sampled = sample_codes(Diagonal().fit(trained), trained, STEP_PAIRS // 8, model.project).split(BATCH // 8)
    total = len(rows) + len(rows[:STEP_PAIRS])
    with Progress(total=total, desc="fitting the encoder", unit=" images") as bar:

        def batches(rows: Tensor, share: float) -> Iterator[tuple[Tensor, Tensor]]:
            """Yield images and codes of rows, until that share of the time is over."""
            for batch in rows.split(BATCH):
                yield from_uint8(read(batch.tolist()).to(codes.device)), codes[batch.to(codes.device)]
                bar.update(len(batch))
                if time.monotonic() - began >= share * max_seconds:
                    return

        pairs = [(encoder.pixels(images), targets) for images, targets in batches(rows, share=0.5)]
        _regress(encoder.first, pairs)
        pairs = []
        for (images, targets), samples in zip(batches(rows[:STEP_PAIRS], share=1.0), sampled, strict=False):
            images, targets = torch.cat([images, model(samples)]), torch.cat([targets, samples])
            first = model.project(encoder.first(encoder.pixels(images)))
            pairs.append((gradient(model, first, images), targets - first))
        _regress(encoder.step, pairs)
    return encoder.requires_grad_(False)


def _regress(layer: nn.Linear, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Set a layer to the ridge regression of pairs (inputs, outputs)."""
    from sklearn.linear_model import Ridge  # slow to import

    inputs, outputs = (torch.cat(part).cpu().numpy() for part in zip(*pairs, strict=True))
    penalty = RIDGE * len(inputs) * float(inputs.var(axis=0).mean()) + 1e-6  # all images may be equal
    ridge = Ridge(penalty, solver="cholesky", copy_X=False).fit(inputs, outputs)
    layer.weight.copy_(torch.as_tensor(ridge.coef_))
    layer.bias.copy_(torch.as_tensor(ridge.intercept_))


def fit_and_save_encoder(run: TrainedRun) -> Encoder:
    """Fit an encoder to a run's codes and save it in the run folder, as safetensors."""
    file = encoder_file(run)
    if file is None:
        remedy = "has no run folder to save an encoder in. Give the folder of its run."
        raise InputError("run", run.checkpoint, remedy)
    if not os.access(file.parent, os.W_OK):
        raise InputError("encoder", file, "cannot be written, its folder is read-only. Copy the run.")
    encoder = fit_encoder(run.model, run.images, rows=run.rows)
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    content = safetensors.torch.save(tensors, metadata={"digest": _digest(run), "sha256": state_digest(tensors)})
    try:
        write_whole(file, lambda opened: opened.write(content), shared=True)
    except OSError as error:
        raise InputError("encoder", file, f"cannot be written ({error.strerror}). {disk_remedy(error)}.") from error
    log.info("fitted the encoder to %d codes, saved in %s", len(run.rows), file)
    return encoder


def load_encoder(run: TrainedRun) -> Encoder | None:
    """Load the encoder that was saved with a run; None, with a warning, if it was fitted to another checkpoint."""
    file = encoder_file(run)
    if file is None or not file.is_file():
        return None
    hparams = run.model.hparams
    encoder = Encoder(hparams["channels"], hparams["image_size"], run.codes.shape[1]).to(run.codes.device)
    with decoding("encoder", file, "Fit another by encode.py RUN --fit_encoder, or remove it."):
        with safetensors.safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
        if metadata.get("digest") != _digest(run):
            message = "%s was fitted to another checkpoint and is not used. Fit one by encode.py RUN --fit_encoder."
            log.warning(message, file)
            return None
        encoder.load_state_dict(safetensors.torch.load_file(file))
        if metadata.get("sha256") != state_digest(encoder.state_dict()):
            raise ValueError("its checksum is wrong")
    return encoder.eval().requires_grad_(False)


def encoder_file(run: TrainedRun) -> Path | None:
    """Where a run's encoder is saved; None without a run folder."""
    return None if run.folder is None else run.folder / "encoder.safetensors"


def _digest(run: TrainedRun) -> str:
    return digest_of(f"{VERSION} {run.digest} {codes_digest(run.codes)}".encode())
