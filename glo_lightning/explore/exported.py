"""Exported runs: a GLO as safetensors and JSON, and where one comes from: a folder, the Hub, or this package."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glo_lightning.errors import InputError, decoding
from glo_lightning.files import whole_folder
from glo_lightning.runs.names import missing_run

if TYPE_CHECKING:
    from glo_lightning.module import GLO

log = logging.getLogger(__name__)

EXPORT_VERSION = 3
CONFIG, GENERATOR, CODES, RECIPE = "config.json", "generator.safetensors", "codes.safetensors", "recipe.yaml"
SHIPPED = Path(__file__).parent / "shipped"  # exported runs that come with the package, by name


def is_export(folder: Path) -> bool:
    """Whether a folder holds an exported run, by its files."""
    return (folder / CONFIG).is_file() and (folder / GENERATOR).is_file()


def load_export(folder: str | os.PathLike[str], kind: type[GLO]) -> tuple[GLO, list[bytes], dict[str, Any]]:
    """Load what ``export_run`` wrote into a ``GLO`` or a subclass; no code in the folder is run.

    Returns:
        The model, its codes in ``latents.weight``; the images' keys by row; and as in a checkpoint, ``global_step`` and
        the state of ``LSUNDataModule``: which images the rows belong to, and their labels.

    Raises:
        InputError: for another folder, another format, a damaged file, or a class that is not a module.
    """
    import safetensors.torch  # slow to import; a mistyped run does not wait for it
    import torch

    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        what = f"holds no export (no {CONFIG})" if folder.is_dir() else "there is no such folder"
        raise InputError("export", folder, f"{what}. Give another folder.")
    with decoding("export", folder, "It is damaged or of another kind. Export the run again."):
        about: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
        version = int(about["format_version"])
        if version != EXPORT_VERSION:
            remedy = f"this version reads {EXPORT_VERSION}. Export the run again, or install the version that wrote it."
            raise InputError("format_version", version, remedy)
        for name, digest in about["sha256"].items():
            if not (folder / name).is_file():
                raise ValueError(f"{name} is missing")
            if sha256_of(folder / name) != digest:
                raise ValueError(f"the checksum of {name} is wrong")
        table = safetensors.torch.load_file(folder / CODES)
        model = kind(**about["hyper_parameters"])
        model.generator.load_state_dict(safetensors.torch.load_file(folder / GENERATOR))
        with torch.no_grad():
            model.latents.weight.copy_(table["codes"])
        rows = zip(table["keys"].numpy(), table["key_lengths"].tolist(), strict=True)
        keys = [key[:length].tobytes() for key, length in rows]
        data = dict(about["data_state"])
        data["record_digests"] = torch.tensor(data["record_digests"])
        data["skipped"] = torch.tensor(data["skipped"], dtype=torch.long)
        values = about.get("labels")
        data["labels"] = None if values is None else {"values": values, "table": table["labels"]}
    return model, keys, {"LSUNDataModule": data, "global_step": about["global_step"]}


def find_export(name: str | os.PathLike[str]) -> Path:
    """Find an exported folder: a folder, ``faces``, which ships, or ``user/repo`` on the Hugging Face Hub.

    Raises:
        InputError: where there is none.
    """
    folder = Path(name)
    if not is_export(folder) and is_export(SHIPPED / folder):
        return SHIPPED / folder
    if folder.exists() or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        return folder
    with using_hub("export", name, "There is no such folder here, either."):
        import huggingface_hub

        return Path(huggingface_hub.snapshot_download(str(name)))


@contextlib.contextmanager
def using_hub(key: str, repository: object, remedy: str) -> Iterator[None]:
    """Raise InputError for whatever huggingface_hub raises, its HTTP library's errors too, and where it is missing."""
    try:
        yield
    except ImportError as error:
        missing = "the Hugging Face Hub needs huggingface_hub. Run pip install -e '.[hub]'."
        raise InputError(key, repository, f"{missing} {remedy}") from error
    except Exception as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(key, repository, f"the Hugging Face Hub fails ({why}). {remedy}") from error


def find_run(name: str | os.PathLike[str]) -> Path:
    """Find the path of a run: a path as it is, or ``faces``, which ships and is copied to ``runs/faces``.

    Raises:
        InputError: when there is no run, or the copy cannot be written; but a checkpoint file is not looked for.
    """
    path = Path(name)
    if path.is_file() or path.suffix == ".ckpt" or (path / "config.yaml").is_file() or is_export(path):
        return path
    if path.is_absolute() or not is_export(SHIPPED / path):
        raise missing_run("run", name, sorted(os.listdir(SHIPPED)))
    copy = Path("runs") / path
    if not is_export(copy):
        try:
            with whole_folder(copy) as folder:
                shutil.copytree(SHIPPED / path, folder, dirs_exist_ok=True)
        except OSError as error:
            remedy = f"cannot be copied to {copy} ({error.strerror}). Work in a folder that can be written."
            raise InputError("run", name, remedy) from error
        log.info("copied the run %s, which comes with the package, to %s", path, copy)
    return copy


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
