"""Export of a run as safetensors and JSON, for programs without Lightning: generator, codes, keys, preprocessing."""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.digests import key_table, keys_digest
from glo_lightning.errors import InputError, decoding
from glo_lightning.explore.encoder import safetensors
from glo_lightning.explore.outputs import named_writing
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import whole_folder
from glo_lightning.module import GLO

log = logging.getLogger(__name__)

EXPORT_VERSION = 2  # 1 had no checksums
GENERATOR, CODES = "generator.safetensors", "codes.safetensors"
COLOUR = {1: "grey (ITU-R 601 luma)", 3: "RGB"}
CROP = {"center": "the shorter side to image_size, bilinear with antialiasing, then the centre cropped"}
CROP["none"] = "both sides to image_size, bilinear with antialiasing"
PREPROCESSING = {
    "range": [-1.0, 1.0],
    "from_uint8": "x / 127.5 - 1",
    "layout": "CHW",
}


def export_run(run: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Write the folder ``output``, completely or not at all:

    - ``generator.safetensors``: the generator's state; ``glo.json`` names its class. The package's own generators need
      torch alone; another needs the module that it is from.
    - ``codes.safetensors``: ``codes`` (N, D); the images' keys by row, ``keys`` (N, longest), uint8, padded with zeros,
      and ``key_lengths`` (N,); of labelled images ``labels`` (N, A), the numbers of values, or -1.
    - ``glo.json``: format version, the arguments of ``GLO``, preprocessing, digest of the keys, the labels' values, and
      checksums of the other files.

    Args:
        run: a run folder, whose newest checkpoint is loaded, or a checkpoint in it; its images must be there.
        output: a folder that does not exist.

    Raises:
        InputError: when there is no such run, its images have changed, the output exists or cannot be written, or
            without safetensors.
    """
    library = safetensors()
    save_file = library.torch.save_file
    output = Path(output).absolute()
    if output.exists():
        raise InputError("output", output, "exists already. Give another folder.")
    loaded = TrainedRun(Path(run), accelerator="cpu")
    model, data = loaded.model, loaded.data
    keys = key_table(data.source, data.num_images)
    codes = {
        "codes": loaded.codes,
        "keys": torch.from_numpy(np.array(keys["key"]).view(np.uint8).reshape(len(keys), -1)),
        "key_lengths": torch.from_numpy(keys["length"].astype(np.int32)),
    }
    arguments = inspect.signature(GLO).parameters
    generator_class = f"{type(model.generator).__module__}.{type(model.generator).__qualname__}"
    package = generator_class.partition(".")[0]
    if package != "glo_lightning":
        log.warning("the generator is a %s: loading this export needs %s", generator_class, package)
    about = {
        "format_version": EXPORT_VERSION,
        "hyper_parameters": {key: value for key, value in model.hparams.items() if key in arguments},
        "generator": {"class": generator_class, "needs": sorted({"torch", package} - {"glo_lightning"})},
        "preprocessing": _preprocessing(data),
        "keys_digest": keys_digest(data.source, data.num_images),
    }
    if len(loaded.rows) < len(loaded.codes):
        about["rows_without_image"] = data.skipped
    if data.attributes is not None:
        about["labels"] = data.attributes.values
        codes["labels"] = data.attributes.table[: len(keys)].to(torch.int32).contiguous()
    generator = {name: tensor.contiguous() for name, tensor in model.generator.state_dict().items()}
    with named_writing("output", output), whole_folder(output) as folder:
        try:
            save_file(generator, folder / GENERATOR)
            save_file(codes, folder / CODES)
        except library.SafetensorError as error:  # of the disk: the tensors are plain
            raise OSError(errno.EIO, str(error)) from error
        about["sha256"] = {name: _sha256(folder / name) for name in (GENERATOR, CODES)}
        (folder / "glo.json").write_text(json.dumps(about, indent=1) + "\n")


def _preprocessing(data: LSUNDataModule) -> dict[str, Any]:
    colour = f"{COLOUR[data.num_channels]}, transparency laid on white, turned as the EXIF tag says"
    return {"colour": colour, "resize": CROP[data.crop], **PREPROCESSING}


def load_export(folder: str | os.PathLike[str]) -> tuple[GLO, list[bytes]]:
    """Load what ``export_run`` wrote; no code in it is run.

    Returns:
        The GLO, its codes in ``latents.weight``, and the key of each row.

    Raises:
        InputError: for another folder, a newer format, a class that is not a module, or without safetensors.
    """
    load_file = safetensors().torch.load_file
    folder = Path(folder)
    if not (folder / "glo.json").is_file():
        raise InputError("export", folder, "holds no export (no glo.json). Give another folder.")
    with decoding("export", folder, "It is damaged. Export the run again."):
        about: dict[str, Any] = json.loads((folder / "glo.json").read_bytes())
        version = int(about["format_version"])
        if version > EXPORT_VERSION:
            raise InputError("format_version", version, f"this version reads {EXPORT_VERSION}. Update it.")
        for name in (GENERATOR, CODES) if version > 1 else ():
            if _sha256(folder / name) != about["sha256"][name]:
                raise ValueError(f"the checksum of {name} is wrong")
        table = load_file(folder / CODES)
        model = GLO(**about["hyper_parameters"])
        model.generator.load_state_dict(load_file(folder / GENERATOR))
        with torch.no_grad():
            model.latents.weight.copy_(table["codes"])
        rows = zip(table["keys"].numpy(), table["key_lengths"].tolist(), strict=True)
        return model, [key[:length].tobytes() for key, length in rows]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
