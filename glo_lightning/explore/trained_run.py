"""A trained run, loaded: its model, its images, and codes of images given by index or file."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.attributes import Attributes
from glo_lightning.data.image_files import read_images
from glo_lightning.data.store import StoredImages
from glo_lightning.encoding import NEAR, STARTS, TRIAL_STEPS, starting_codes
from glo_lightning.errors import InputError, check_at_least, check_choice
from glo_lightning.explore.encoder import Encoder, fit_encoder
from glo_lightning.explore.fitted import check_encoder, encoder_digest, fit_prior, keep_encoder, load_encoder
from glo_lightning.explore.flow_path import through
from glo_lightning.explore.paths import Way
from glo_lightning.explore.saved_codes import load_codes
from glo_lightning.images import from_uint8, to_uint8
from glo_lightning.latents import unconstrained
from glo_lightning.module import GLO
from glo_lightning.priors.flow import FEWEST, Flow
from glo_lightning.priors.prior import Prior, make_prior
from glo_lightning.runs.checkpoints import newest_checkpoint, read_checkpoint
from glo_lightning.runs.folder import RunFolder

log = logging.getLogger(__name__)

Accelerator = Literal["auto", "cpu", "gpu"]
UseEncoder = Literal["auto", "none"]
Chart = Callable[[Tensor], Tensor]
FEWEST_GIVEN = 20  # training images that have an attribute's value, for samples to be given it


def load_run(path: str | Path, accelerator: Accelerator = "auto", root: str | Path | None = None) -> TrainedRun:
    """Loads a run folder or a checkpoint file, see TrainedRun."""
    return TrainedRun(path, accelerator, root)


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
        root: where its images are now, if not where its configuration says.

    Raises:
        InputError: when there is no such run, or no such accelerator.
    """

    def __init__(self, path: str | Path, accelerator: Accelerator = "auto", root: str | Path | None = None):
        path = Path(path).absolute()
        if path.is_dir() and not (path / "config.yaml").is_file():
            raise InputError("run", path, "holds no run (no config.yaml); give the folder of a run or a checkpoint")
        self.checkpoint = path
        if path.is_dir():
            folder = RunFolder(path)
            self.checkpoint = newest_checkpoint(folder) or folder.last
        self._root = None if root is None else str(Path(root).expanduser().absolute())
        self._state = read_checkpoint(self.checkpoint, "run")
        self.global_step: int = self._state["global_step"]
        self.initial: Tensor | None = self._state.get("initial_codes")
        folders = (path, path.parent, path.parent.parent)
        self.folder = next((folder for folder in folders if (folder / "config.yaml").is_file()), None)
        device = find_device(accelerator)
        model = GLO.load_from_checkpoint(self.checkpoint, map_location="cpu", weights_only=True)
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
        return yaml.safe_load((self.folder / "config.yaml").read_text())

    @functools.cached_property
    def data(self) -> LSUNDataModule:
        """The run's datamodule, checked to hold the images that the codes belong to.

        Raises:
            InputError: when the run's folder is not there, or its images are others now.
        """
        arguments = dict(self.config["data"])
        arguments["root"] = self._root or arguments.get("root")
        data = LSUNDataModule(**arguments)
        data.load_state_dict(self._state["LSUNDataModule"])
        return data

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the generator, through which alone a code means an image."""
        content = hashlib.sha256()
        for name, tensor in self.model.generator.state_dict().items():
            content.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return content.hexdigest()

    @functools.cached_property
    def found_data(self) -> LSUNDataModule | None:
        """The run's data, or None, and a line that says why, where its images cannot be had."""
        try:
            return self.data
        except InputError as error:
            log.info("without the training images: %s", error)
            return None

    @functools.cached_property
    def attributes(self) -> Attributes | None:
        """What is known of the images by row, as it was when the run was saved; None where nothing is."""
        labels = self._state.get("LSUNDataModule", {}).get("labels")
        return None if labels is None else Attributes.from_state(labels)

    def prior(self, name: str, n_components: int | None = None) -> Prior:
        """A prior fitted to the codes, or one kept from before; see ``make_prior`` and ``fit_prior``.

        A flow is shown the images' attributes where they have some.

        Raises:
            InputError: for a name that is no prior's, or codes that it cannot be fitted to.
        """
        return fit_prior(make_prior(name, n_components), self.model.latents.weight, self.attributes, self.folder)

    def flow(self) -> Flow:
        """The flow among the codes.

        Raises:
            InputError: for too few codes.
        """
        num_codes = len(self.model.latents.weight)
        if num_codes < FEWEST:
            raise InputError(
                "way", "flow", f"{num_codes} codes are too few for a flow, which needs {FEWEST}; give line"
            )
        flow = self.prior("flow")
        assert isinstance(flow, Flow)
        return flow

    def flow_way(self) -> Way:
        """The way through the noise of the flow; see ``through``."""
        return through(self.flow())

    def chart(self, way: str) -> tuple[Chart, Chart]:
        """From codes (B, D) to the places where walks and sums are made, and back: ``flow`` noise, or the codes."""
        if way != "flow":
            return unconstrained, unconstrained
        flow = self.flow()
        return flow.encode, flow.decode

    def given(self, texts: Sequence[str]) -> Tensor:
        """``name=value`` of attributes as a flow takes them, (A,); see ``Attributes.numbers``.

        Raises:
            InputError: for images without attributes, an attribute or a value that does not exist, or has few images.
        """
        for text in texts:
            number = len(self._rows_with([text]))
            if number < FEWEST_GIVEN:
                raise InputError("given", text, f"only {number} training images have it, {FEWEST_GIVEN} are needed")
        return self._attributes(texts).numbers(texts)

    def _attributes(self, texts: Sequence[str]) -> Attributes:
        if self.attributes is None:
            remedy = "the run's images have no labels, neither classes nor attributes.csv; do without"
            raise InputError("given", " ".join(texts), remedy)
        return self.attributes

    def _rows_with(self, texts: Sequence[str]) -> Tensor:
        """The training images that have all of these, by row."""
        rows = self._attributes(texts).rows(texts)
        return rows[rows < len(self.model.latents.weight)]

    def images(self, rows: Iterable[int]) -> Tensor:
        """The training images of these rows, as far as there are such, (n, C, H, W), uint8."""
        data = self.data
        return data.dataset[[row for row in rows if row < data.num_images]][0]

    def originals(self, rows: Tensor) -> Tensor:
        """The training images of these rows (n,), or whose mirror images they are, (n, C, H, W), uint8."""
        return self.images((rows - rows % self.data.rows_per_image).tolist())

    def read(self, paths: Sequence[Path]) -> tuple[Tensor, list[str]]:
        """Images that a user names, made as the run's are; see ``read_images``."""
        return read_images(paths, self.data.image_format)

    @property
    def encoder_file(self) -> Path | None:
        """Where the run's encoder is kept; None without a run folder."""
        return None if self.folder is None else self.folder / "encoder.safetensors"

    def fit_encoder(self) -> Encoder:
        """Fits an encoder to the codes and keeps it in the run folder; see ``encoder.fit_encoder``.

        Raises:
            InputError: without a run folder, its images, or a disk that takes the file.
        """
        if self.encoder_file is None:
            raise InputError(
                "run", self.checkpoint, "has no run folder to keep an encoder in; give the folder of its run"
            )
        check_encoder(self.encoder_file)
        encoder = fit_encoder(self.model, self.images)
        keep_encoder(encoder, self.encoder_file, encoder_digest(self.digest, self.model.latents.weight))
        log.info("fitted the encoder to %d codes, kept in %s", len(self.model.latents.weight), self.encoder_file)
        self._kept_encoder = encoder
        return encoder

    @functools.cached_property
    def _kept_encoder(self) -> Encoder | None:
        file, codes, hparams = self.encoder_file, self.model.latents.weight, self.model.hparams
        if file is None or not file.is_file():
            return None
        made = Encoder(hparams["channels"], hparams["image_size"], codes.shape[1]).to(codes.device)
        encoder = load_encoder(made, file, encoder_digest(self.digest, codes))
        if encoder is None:
            remedy = "fit one to this by encode.py RUN --fit_encoder"
            log.warning("%s was fitted to another checkpoint and is not used; %s", file, remedy)
        return encoder

    def encoder(self, use: UseEncoder = "auto") -> Encoder | None:
        """The encoder that is kept with the run, see ``fit_encoder``; None without one.

        Args:
            use: ``auto``: None, with a warning, where it was fitted to another checkpoint. ``none``: None.

        Raises:
            InputError: for another choice, and a file that cannot be read.
        """
        check_choice("encoder", use, UseEncoder)
        return None if use == "none" else self._kept_encoder

    def encode(
        self,
        images: Tensor,
        starts: Sequence[str] = STARTS,
        steps: int | None = None,
        encoder: UseEncoder = "auto",
        **options: Any,
    ) -> Tensor:
        """Codes (M, D) for images (M, C, H, W), uint8, that own no row; see ``GLO.encode``.

        Args:
            images: made as the run's are.
            starts: see ``starting_codes``.
            steps: of the descent. An encoder's answer is the only start of 30 steps or fewer, and one more start of
                more; the whole answer of 0. If not given 30 where there is an encoder, else 150.
            encoder: see ``encoder``.
            options: of ``encoding.encode``.

        Raises:
            InputError: for no steps without an encoder, and as ``encoder`` does.
        """
        model, found = self.model, self.encoder(encoder)
        steps = (150 if found is None else TRIAL_STEPS) if steps is None else steps
        check_steps(steps, found)
        wanted = from_uint8(images.to(model.device))
        if found is None:
            return model.encode(wanted, self.training(), starts, steps=steps, **options)
        codes = torch.cat([found(image[None], model) for image in wanted])  # one code in any company
        if steps < 1:
            return codes
        first = codes[:, None]
        if steps <= TRIAL_STEPS:
            return model.encode(wanted, starts=first, steps=steps, betas=NEAR, **options)
        training = self.training()
        others = starting_codes(model.latents.weight, training, wanted, starts, model.n_pca, model.whiten)
        return model.encode(wanted, starts=torch.cat([first, others], dim=1), steps=steps, **options)

    def training(self) -> Tensor:
        """The training images that a PCA is fitted to (n, C, H, W), uint8; those of a file are no copy in memory."""
        data = self.data
        if isinstance(data.dataset, StoredImages) and data.rows_per_image == 1:
            return data.dataset.images[: min(self.model.n_pca, data.num_images)]
        return self.images(range(self.model.n_pca))

    def codes(self, names: Sequence[str]) -> Tensor:
        """The codes (M, D), on the model's device, of images by name; those of files are looked for.

        Args:
            names: the index of a row, such as ``17``; ``name=value``: the mean code of the training images that have
                it; a saved code, ``FILE.npy``; or the path of an image file.

        Raises:
            InputError: for an index out of range, a file that is no image or of another run's code, an attribute or a
                value that does not exist.
        """
        table = self.model.latents.weight
        codes, files = torch.empty(len(names), table.shape[1], device=table.device), []
        for position, name in enumerate(names):
            if _is_index(name):
                codes[position] = table[self._row(name)]
            elif is_attribute(name):
                codes[position] = table[self._rows_of(name).to(table.device)].mean(0)
            elif _is_code(name):
                codes[position] = self._saved_code(name)
            else:
                files.append(position)
        if files:
            codes[files] = self.encode(torch.stack([self._pixels(names[position]) for position in files]))
        return codes

    def codes_of(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The codes and the pixels of images by name: see ``codes``; of ``name=value`` the first image that has it.

        Returns:
            Codes (M, D) on the model's device, and uint8 images (M, C, H, W); a saved code's is generated.

        Raises:
            InputError: as ``codes`` does, or when the training images cannot be had.
        """
        pixels = torch.stack([self._pixels(name) for name in names])  # first: what is no image is known at once
        return self.codes(names), pixels

    def saved_codes(self, file: str | Path) -> Tensor:
        """The codes (M, D) that were saved from this run, see ``load_codes``."""
        table = self.model.latents.weight
        return load_codes(Path(file), table.shape[1], self.digest).to(table)

    def _saved_code(self, name: str) -> Tensor:
        codes = self.saved_codes(name)
        if len(codes) > 1:
            raise InputError("codes", name, f"holds {len(codes)} codes; give the file of one")
        return codes[0]

    def _pixels(self, name: str) -> Tensor:
        if _is_index(name):
            return self.data.dataset[self._row(name)][0]
        if is_attribute(name):
            return self.data.dataset[int(self._rows_of(name)[0])][0]
        if _is_code(name):
            return to_uint8(self.model(self._saved_code(name)[None])[0]).cpu()
        found, _ = self.read([Path(name)])
        if len(found) > 1:
            raise InputError("image", name, f"holds {len(found)} images; give the file of one")
        return found[0]

    def _row(self, name: str) -> int:
        num_images = len(self.model.latents.weight)
        if not 0 <= int(name) < num_images:
            remedy = f"the run has {num_images} images; give an index from 0 to {num_images - 1}, or a file"
            raise InputError("image", name, remedy)
        return int(name)

    def _rows_of(self, name: str) -> Tensor:
        rows = self._rows_with([name])
        if not len(rows):
            raise InputError("image", name, "no training image has it; give a value that some have")
        return rows


def check_steps(steps: int, encoder: Encoder | None) -> None:
    """Raises InputError for fewer steps than none, and for none where no encoder answers."""
    check_at_least("steps", steps, 0)
    if steps == 0 and encoder is None:
        raise InputError("steps", steps, "needs an encoder; make one by encode.py RUN --fit_encoder, or give more")


def is_attribute(name: str) -> bool:
    """Whether an image's name is ``name=value``, and not a file's path."""
    return "=" in name and not Path(name).exists()


def _is_code(name: str) -> bool:
    return name.endswith(".npy")


def _is_index(name: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", name) is not None


def find_device(accelerator: Accelerator) -> torch.device:
    """The device of ``cpu``, ``gpu`` (CUDA, else Apple's) or ``auto`` (CUDA, else the CPU).

    Raises:
        InputError: when there is none.
    """
    if accelerator != "cpu":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if accelerator == "gpu":
            if torch.mps.is_available():
                return torch.device("mps")
            raise InputError("accelerator", accelerator, "no GPU that torch can use is here; give cpu or auto")
    return torch.device("cpu")
