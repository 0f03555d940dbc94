"""Fit a prior, or load what was fitted to the same codes before: a flow takes minutes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from glo_lightning.errors import DamagedError, InputError, decoding
from glo_lightning.files import cache_folder, load_torch, write_whole
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.prior import Prior, takes_conditions

if TYPE_CHECKING:
    from glo_lightning.data.attributes import Attributes

log = logging.getLogger(__name__)

VERSION = 2  # of the files of flows


def fit_prior(
    prior: Prior, codes: Tensor, attributes: Attributes | None = None, run: Path | None = None, side: int = 1
) -> Prior:
    """Fit a prior to codes (N, D); a flow is loaded if it was fitted to the same codes and labels before.

    A flow is saved, as tensors, in ``priors/`` of the run folder, or of the cache folder where that is missing or
    cannot be written. Its file name holds the digests of the codes, the labels and the flow's arguments.

    Args:
        prior: not fitted yet.
        codes: of the training images.
        attributes: of these images, and of others after them.
        run: the run folder.
        side: see ``Flow.fit``.
    """
    began = time.monotonic()
    if not takes_conditions(prior):
        prior.fit(codes)
        log.info("fitted the prior to %d codes in %.1f s", len(codes), time.monotonic() - began)
        return prior
    labels, sizes = (None, []) if attributes is None else (attributes.table[: len(codes)], attributes.cardinalities)
    digest = codes_digest(codes, attributes)
    kind = [VERSION, prior.arguments, *([side] if side > 1 else [])]
    name = f"flow-{digest}-{digest_of(json.dumps(kind).encode())}.pt"
    folders = [] if run is None else [run / "priors"]
    with contextlib.suppress(InputError):  # without a home, as in containers, there may be no cache folder
        folders.append(cache_folder() / "priors")
    for folder in folders:
        exported = folder / exported_flow(digest)  # of whatever width
        file = exported if exported.is_file() else folder / name
        if file.is_file():
            try:
                with decoding("prior", file, "The flow is fitted again."):
                    saved = load_torch(file)
                    # an export may have it in half precision
                    state = {key: value.float() if value.is_floating_point() else value for key, value in saved.items()}
                    if state["mean"].shape != codes.shape[1:] or not all(t.isfinite().all() for t in state.values()):
                        raise ValueError("it is not a flow of these codes")
                    return prior.restore(state, sizes, codes.device)
            except DamagedError as error:
                log.warning("%s %s", error.value, error.remedy)
        elif folder.parent == run and any(folder.glob("flow-*.pt")):
            log.info("the flows in %s were fitted to other codes, labels or arguments; fitting another", folder)
    prior.fit(codes, labels, sizes, side)
    place = next((folder for folder in folders if _save(prior, folder / name)), "no folder")
    log.info("fitted the flow to %d codes in %.1f s, saved in %s", len(codes), time.monotonic() - began, place)
    return prior


def exported_flow(digest: str) -> str:
    """The name of an exported flow's file, by the digest of its codes."""
    return f"flow-{digest}.pt"


def _save(flow: Flow, file: Path) -> bool:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda opened: torch.save(flow.state(), opened), shared=True)
    except OSError as error:
        log.warning("%s cannot be written (%s)", file, error.strerror)
        return False
    return True


def codes_digest(codes: Tensor, attributes: Attributes | None = None) -> str:
    """A digest of codes (N, D) and of their images' labels."""
    labels = "" if attributes is None else attributes.digest(len(codes))
    return digest_of(codes.detach().cpu().contiguous().numpy().tobytes() + labels.encode())


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
