"""A trained run, loaded: its model, its images, and codes of images given by index or file."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.image_files import read_images
from glo_lightning.encoding import STARTS
from glo_lightning.errors import InputError
from glo_lightning.images import from_uint8
from glo_lightning.module import GLO
from glo_lightning.retired import current_config, upgrade_checkpoint
from glo_lightning.runs.checkpoints import newest_checkpoint, read_checkpoint
from glo_lightning.runs.folder import RunFolder

Accelerator = Literal["auto", "cpu", "gpu"]


def load_run(path: str | Path, accelerator: Accelerator = "auto") -> TrainedRun:
    """Loads a run folder or a checkpoint file, see TrainedRun."""
    return TrainedRun(path, accelerator)


class TrainedRun:
    """A trained GLO and the images that it was trained on.

    Attributes:
        model: in eval mode, on the device, its weights without gradients.
        checkpoint: the file that it was loaded from.
        global_step: of the checkpoint.
        initial: the first codes as they were before the training, (n, D), n at most 16,384; None in one that has none.
        folder: where the run's ``config.yaml`` lies; None for a checkpoint that has none beside it.

    Args:
        path: a run folder, whose last checkpoint is taken, or a checkpoint file.
        accelerator: ``cpu``, ``gpu`` or ``auto``.

    Raises:
        InputError: when there is no such run, or no such accelerator.
    """

    def __init__(self, path: str | Path, accelerator: Accelerator = "auto"):
        path = Path(path).absolute()
        if path.is_dir() and not (path / "config.yaml").is_file():
            raise InputError("run", path, "holds no run (no config.yaml); give the folder of a run or a checkpoint")
        self.checkpoint = path
        if path.is_dir():
            folder = RunFolder(path)
            self.checkpoint = newest_checkpoint(folder) or folder.last
        self._state = read_checkpoint(self.checkpoint, "run")
        upgrade_checkpoint(self._state)
        self.global_step: int = self._state["global_step"]
        self.initial: Tensor | None = self._state.get("initial_codes")
        folders = (path, path.parent, path.parent.parent)
        self.folder = next((folder for folder in folders if (folder / "config.yaml").is_file()), None)
        device = find_device(accelerator)
        model = GLO.load_from_checkpoint(self.checkpoint, map_location=device, weights_only=True)
        self.model: GLO = model.to(device).eval().requires_grad_(False)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The run's whole configuration.

        Raises:
            InputError: when the run's folder is not there.
        """
        if self.folder is None:
            remedy = "has no config.yaml beside it, which says where its images are; give the folder of its run"
            raise InputError("run", self.checkpoint, remedy)
        return current_config(yaml.safe_load((self.folder / "config.yaml").read_text()))

    @functools.cached_property
    def data(self) -> LSUNDataModule:
        """The run's datamodule, checked to hold the images that the codes belong to.

        Raises:
            InputError: when the run's folder is not there, or its images are others now.
        """
        data = LSUNDataModule(**self.config["data"])
        data.load_state_dict(self._state["LSUNDataModule"])
        return data

    def images(self, rows: Iterable[int]) -> Tensor:
        """The training images of these rows, as far as there are such, (n, 3, H, W), uint8."""
        data = self.data
        return data.dataset[[row for row in rows if row < data.num_images]][0]

    def encode(self, images: Tensor, starts: Sequence[str] = STARTS, **options: Any) -> Tensor:
        """Codes (M, D) for images (M, 3, H, W), uint8, that own no row; see ``GLO.encode``."""
        training = self.images(range(self.model.n_pca))
        return self.model.encode(from_uint8(images.to(self.model.device)), training, starts, **options)

    def codes_of(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The codes and the pixels of images given by the index of their row, or as a file, which is encoded.

        Args:
            names: an index such as ``17``, or the path of an image file, each.

        Returns:
            Codes (M, D) on the model's device, and uint8 images (M, 3, H, W).

        Raises:
            InputError: for an index out of range, or a file that is no image.
        """
        images = torch.stack([self._pixels(name) for name in names])
        is_row = torch.tensor([_is_index(name) for name in names])
        table = self.model.latents.weight
        codes = torch.empty(len(names), table.shape[1], device=table.device)
        codes[is_row.to(table.device)] = table[[int(name) for name in names if _is_index(name)]]
        if not is_row.all():
            codes[~is_row.to(table.device)] = self.encode(images[~is_row])
        return codes, images

    def _pixels(self, name: str) -> Tensor:
        num_images = self.data.num_images
        if not _is_index(name):
            found, _ = read_images([Path(name)], self.data.image_size)
            if len(found) > 1:
                raise InputError("image", name, f"holds {len(found)} images; give the file of one")
            return found[0]
        if not 0 <= int(name) < num_images:
            remedy = f"the run has {num_images} images; give an index from 0 to {num_images - 1}, or a file"
            raise InputError("image", name, remedy)
        return self.data.dataset[int(name)][0]


def _is_index(name: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", name) is not None


def find_device(accelerator: Accelerator) -> torch.device:
    """The device of ``cpu``, ``gpu`` or ``auto``: CUDA, else Apple's, else the CPU.

    Raises:
        InputError: when there is none.
    """
    if accelerator != "cpu":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        if accelerator == "gpu":
            raise InputError("accelerator", accelerator, "no GPU that torch can use is here; give cpu or auto")
    return torch.device("cpu")
