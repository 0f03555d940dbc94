"""Exports a run: generator, codes, keys, flow, recipe and a model card, to hand over or to use without Lightning."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from glo_lightning.data.digests import key_table
from glo_lightning.errors import InputError
from glo_lightning.explore.card import write_card
from glo_lightning.explore.exported import CODES, CONFIG, EXPORT_VERSION, GENERATOR, RECIPE, load_export, using_hub
from glo_lightning.explore.outputs import named_writing
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import load_torch, whole_folder
from glo_lightning.module import GLO
from glo_lightning.priors.fitting import codes_digest, exported_flow

log = logging.getLogger(__name__)

# Not what commands have written into the folder since, such as pictures of somebody's own photographs.
UPLOADED = ["README.md", CONFIG, GENERATOR, CODES, RECIPE, "pictures/*", "priors/*"]
COLOUR = {1: "grey (ITU-R 601 luma)", 3: "RGB"}
CROP = {"center": "the shorter side to image_size, bilinear with antialiasing, then the centre cropped"}
CROP["none"] = "both sides to image_size, bilinear with antialiasing"


def export_run(
    run: str | os.PathLike[str], output: str | os.PathLike[str], half: bool = False, reuse: bool = False
) -> bool:
    """Write the folder ``output``, completely or not at all; return False if it is this very export already.

    The folder has:

    - ``generator.safetensors``: the generator's state; ``config.json`` names its class. The package's own generators
      need torch alone; another needs the module that it is from.
    - ``codes.safetensors``: ``codes`` (N, D); the images' keys by row, ``keys`` (N, longest), uint8, padded with zeros,
      and ``key_lengths`` (N,); of labelled images ``labels`` (N, A), the numbers of values, or -1.
    - ``config.json``: format version, the arguments of ``GLO``, preprocessing, digests that tell the images, the
      labels' values, and checksums of the other files.
    - ``recipe.yaml``: the run's configuration without places; ``priors/``: its flows.
    - ``README.md``, a model card, with its ``pictures/``.

    Args:
        run: a run folder, whose newest checkpoint is loaded, or a checkpoint in it; its images must be there.
        output: a folder that does not exist.
        half: store the generator and the flows in half precision.
        reuse: accept an output that is this export already, such as one that could not be uploaded.

    Raises:
        InputError: when there is no such run, its images have changed, or the output exists or cannot be written.
    """
    output = Path(output).absolute()
    if output.exists() and not reuse:
        raise InputError("output", output, "exists already. Give another folder.")
    loaded = TrainedRun(Path(run), accelerator="cpu")
    codes, about = _tables(loaded), _about(loaded)
    if half:
        loaded.model.generator.half().float()  # what is measured and shown is what is stored
    state = loaded.model.generator.state_dict().items()
    generator = {name: (value.half() if half and value.is_floating_point() else value) for name, value in state}
    # not save_file, which has an error of its own for full disks
    tables = {GENERATOR: save({name: value.contiguous() for name, value in generator.items()}), CODES: save(codes)}
    about["sha256"] = {name: hashlib.sha256(table).hexdigest() for name, table in tables.items()}
    if output.exists():
        _check_same(output, about, _find_flow(loaded))
        return False
    with named_writing("output", output), whole_folder(output) as folder:
        for name, table in tables.items():
            (folder / name).write_bytes(table)
        recipe = {**loaded.config, "data": {**loaded.config["data"], "root": None}}  # without a place of this machine
        (folder / RECIPE).write_text(yaml.safe_dump(recipe, sort_keys=False))
        _copy_flow(loaded, folder / "priors", half)
        write_card(loaded, folder, output.name)
        (folder / CONFIG).write_text(json.dumps(about, indent=1) + "\n")
    return True


def _check_same(folder: Path, about: dict[str, Any], flow: tuple[Path, str] | None) -> None:
    """Raise InputError unless a folder is an undamaged export of what ``about`` tells, with its flow, if any."""
    remedy = "exists, and is no export of this run as it is now. Give another folder."
    try:
        load_export(folder, GLO)
    except InputError as error:
        raise InputError("output", folder, remedy) from error
    has_flow = flow is None or (folder / "priors" / flow[1]).is_file()
    if not has_flow or json.loads((folder / CONFIG).read_bytes()) != json.loads(json.dumps(about)):
        raise InputError("output", folder, remedy)


def _find_flow(run: TrainedRun) -> tuple[Path, str] | None:
    """The file of the flow that was fitted to the run's codes, if there is one, and its name in an export."""
    digest = codes_digest(run.trained_codes, run.trained_attributes)
    files = [] if run.folder is None else sorted((run.folder / "priors").glob(f"flow-{digest}*.pt"))
    return (files[0], exported_flow(digest)) if files else None


def _copy_flow(run: TrainedRun, target: Path, half: bool) -> None:
    """Copy the flow that was fitted to the run's codes, if there is one."""
    found = _find_flow(run)
    if found is not None:
        state = load_torch(found[0])
        halved = {key: value.half() if half and value.is_floating_point() else value for key, value in state.items()}
        target.mkdir()
        torch.save(halved, target / found[1])


def _tables(run: TrainedRun) -> dict[str, Tensor]:
    """Codes, keys and labels."""
    keys = key_table(run.data.source, run.data.num_images)
    tables = {
        "codes": run.codes,
        "keys": torch.from_numpy(np.array(keys["key"]).view(np.uint8).reshape(len(keys), -1)),
        "key_lengths": torch.from_numpy(keys["length"].astype(np.int32)),
    }
    if run.attributes is not None:
        tables["labels"] = run.attributes.table[: len(keys)].to(torch.int32).contiguous()
    return tables


def _about(run: TrainedRun) -> dict[str, Any]:
    arguments = inspect.signature(GLO).parameters
    kind = type(run.model.generator)
    generator_class = f"{kind.__module__}.{kind.__qualname__}"
    package = generator_class.partition(".")[0]
    if package != "glo_lightning":
        log.warning("the generator is a %s: loading this export needs %s", generator_class, package)
    state = {key: value for key, value in run.data.state_dict().items() if key != "labels"}
    lists = {key: state[key].tolist() for key in ("record_digests", "skipped")}
    return {
        "format_version": EXPORT_VERSION,
        "hyper_parameters": {key: value for key, value in run.model.hparams.items() if key in arguments},
        "generator": {"class": generator_class, "needs": sorted({"torch", package} - {"glo_lightning"})},
        "preprocessing": {
            "colour": f"{COLOUR[run.data.num_channels]}, transparency laid on white, turned as the EXIF tag says",
            "resize": CROP[run.data.crop],
            "range": [-1.0, 1.0],
            "from_uint8": "x / 127.5 - 1",
            "layout": "CHW",
        },
        "data_state": state | lists,
        "global_step": run.global_step,
        **({"labels": run.attributes.values} if run.attributes is not None else {}),
    }


def check_push(repository: str) -> None:
    """Raise InputError for a name that is no repository's, or where huggingface_hub is not installed."""
    with using_hub("push", repository, "Or leave --push out."):
        import huggingface_hub  # noqa: F401
    if repository.count("/") != 1:
        raise InputError("push", repository, "is no repository. Give user/repo.")


def push_export(folder: str | os.PathLike[str], repository: str, private: bool = True) -> str:
    """Upload an exported folder to ``user/repo`` on the Hugging Face Hub, made if need be; return its address.

    Raises:
        InputError: when the Hub cannot be reached or refuses.
    """
    with using_hub(
        "push", repository, f"{os.fspath(folder)} is complete; log in with hf auth login, and repeat the command."
    ):
        import huggingface_hub

        hub = huggingface_hub.HfApi()
        hub.create_repo(repository, private=private, exist_ok=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=os.fspath(folder), allow_patterns=UPLOADED))
