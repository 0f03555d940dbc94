"""A trained run as safetensors and JSON: generator, codes, keys and preprocessing, for programs without Lightning."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from glo_lightning.checkpoints import read_checkpoint
from glo_lightning.errors import InputError
from glo_lightning.lmdb_dataset import LMDBDataset
from glo_lightning.module import GLO
from glo_lightning.run_folder import RunFolder

EXPORT_VERSION = 1
PREPROCESSING = {
    "colour": "RGB, transparency laid on white, turned as the EXIF tag says",
    "resize": "the shorter side to image_size, bilinear with antialiasing, then the centre cropped",
    "range": [-1.0, 1.0],
    "from_uint8": "x / 127.5 - 1",
    "layout": "CHW",
}


def export_run(run: str | os.PathLike[str], output: str | os.PathLike[str], checkpoint: str = "last") -> None:
    """Writes the folder ``output``, whole or not at all:

    - ``generator.safetensors``: the state of ``generator.Generator``;
    - ``codes.safetensors``: ``codes`` (N, D), and row by row the LMDB's keys, ``keys`` (N, longest) uint8, padded with
      zeros, and ``key_lengths`` (N,);
    - ``glo.json``: format version, the arguments of ``GLO``, preprocessing, progress, digest of the keys.

    Args:
        run: the run folder. Its data are needed for the keys.
        output: a folder that does not exist.
        checkpoint: ``last``, ``previous`` or ``best``.

    Raises:
        InputError: for a folder without a run or with other data, an output that exists, or without safetensors.
    """
    save_file = _safetensors().save_file
    folder, output = RunFolder(run), Path(output)
    if output.exists():
        raise InputError("output", output, "exists already; give another folder")
    if not folder.config.is_file():
        raise InputError("run", run, "holds no run (no config.yaml); give the folder of a run")
    saved = read_checkpoint(folder.last.with_name(f"{checkpoint}.ckpt"), "checkpoint")
    data = yaml.safe_load(folder.config.read_text())["data"]
    records = LMDBDataset(data["root"], data["image_size"], data["num_samples"])
    if records.digest() != saved["LSUNDataModule"]["keys_digest"]:
        raise InputError("root", records.path, "the checkpoint's rows belong to other images; put back its data")
    state = saved["state_dict"]
    generator = {
        name.removeprefix("generator."): tensor.contiguous()
        for name, tensor in state.items()
        if name.startswith("generator.")
    }
    keys = np.ascontiguousarray(records.keys["key"]).view(np.uint8).reshape(len(records), -1)
    arguments = inspect.signature(GLO).parameters
    about = {
        "format_version": EXPORT_VERSION,
        "hyper_parameters": {key: value for key, value in saved["hyper_parameters"].items() if key in arguments},
        "preprocessing": PREPROCESSING,
        "global_step": saved["global_step"],
        "keys_sha256": records.digest(),
    }
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.absolute().parent) as temporary:
        whole = Path(temporary) / "export"
        whole.mkdir()
        save_file(generator, whole / "generator.safetensors")
        codes = {
            "codes": state["latents.weight"].contiguous(),
            "keys": torch.from_numpy(keys.copy()),
            "key_lengths": torch.from_numpy(records.keys["length"].astype(np.int32)),
        }
        save_file(codes, whole / "codes.safetensors")
        (whole / "glo.json").write_text(json.dumps(about, indent=1) + "\n")
        os.replace(whole, output)


def load_export(folder: str | os.PathLike[str]) -> tuple[GLO, list[bytes]]:
    """Loads what ``export_run`` wrote; runs no code that is in it.

    Returns:
        The GLO, its codes in ``latents.weight``, and the key of each row.

    Raises:
        InputError: when it is no export, or a later format, or without safetensors.
    """
    load_file = _safetensors().load_file
    folder = Path(folder)
    try:
        about: dict[str, Any] = json.loads((folder / "glo.json").read_text())
        version = about["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("export", folder, "holds no export (no readable glo.json)") from error
    if version > EXPORT_VERSION:
        raise InputError("format_version", version, f"this program reads {EXPORT_VERSION}; update the program")
    table = load_file(folder / "codes.safetensors")
    model = GLO(**about["hyper_parameters"])
    model.generator.load_state_dict(load_file(folder / "generator.safetensors"))
    with torch.no_grad():
        model.latents.weight.copy_(table["codes"])
    rows = zip(table["keys"].numpy(), table["key_lengths"].tolist(), strict=True)
    return model, [key[:length].tobytes() for key, length in rows]


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise InputError("export", "safetensors", "is not installed; pip install -e '.[export]'") from error
    return safetensors.torch
