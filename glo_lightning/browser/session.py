"""The answers to the page: pictures, each with its code and the command that makes it."""

from __future__ import annotations

import contextlib
import io
import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from glo_lightning.browser.commands import Commands
from glo_lightning.browser.filling import Filler
from glo_lightning.browser.map import Map
from glo_lightning.browser.names import Names
from glo_lightning.browser.payloads import as_text, as_url
from glo_lightning.browser.saved import SavedCodes
from glo_lightning.browser.training_images import TrainingImages
from glo_lightning.browser.uploads import keep_newest
from glo_lightning.errors import InputError, check_choice
from glo_lightning.explore.codes import generate
from glo_lightning.explore.editing import Mixer, directions, interpolation_strips, label_cells, move
from glo_lightning.explore.encoder import load_encoder
from glo_lightning.explore.flows import default_path, parse_conditions
from glo_lightning.explore.outputs import write_animation
from glo_lightning.explore.paths import INTERPOLATIONS, check_weights
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.generator import code_side
from glo_lightning.images import ImageFormat, from_uint8
from glo_lightning.priors.flow import MIN_CODES, enough_codes
from glo_lightning.priors.prior import PRIORS, Prior, make_prior, sample_codes, takes_conditions

AXES = 12
FRACTIONS = 32  # of the slider between two images
MAX_IN_STRIP = 8  # images


class Session:
    """Answers the page about a run. Images are named by index, ``name=value``, ``upload-3``, or a saved code.

    The path of the run as the user gave it, and the flags, are those of ``Commands``.
    """

    def __init__(self, run: TrainedRun, path: Path, flags: Sequence[str] = ()):
        self.run, self.path, self.commands = run, path, Commands(path, flags)
        self.data = run.data_or_none
        num_codes, latent_dim = run.codes.shape
        self.images = TrainingImages(run)
        self.map = Map(run, self.images)
        self.directions = directions(run, min(AXES, latent_dim))
        self.paths = ["flow", *INTERPOLATIONS] if enough_codes(num_codes) else list(INTERPOLATIONS)
        self.saved = SavedCodes(run)
        self.encoder = load_encoder(run) if self.data else None
        format_of_model = ImageFormat(run.model.hparams["image_size"], run.model.hparams["channels"])
        self.image_format = self.data.image_format if self.data else format_of_model
        self._mixers: OrderedDict[Any, Mixer] = OrderedDict()
        self._priors: dict[str, Prior] = {}
        self._slow = threading.Lock()  # one encoding or fit at a time
        labels = [name for name in self.directions if "=" in name]
        self._names = Names(run, labels, self.encoder, self._slow)
        self.filler = Filler(run, self.images, self._names, self.encoder, self.commands, self._slow)
        self._fitted = False  # whether a strip has shown the flow

    def about(self) -> dict[str, Any]:
        """What the page needs at its start."""
        attributes = self.run.attributes
        num_codes, latent_dim = self.run.codes.shape
        return {
            "run": "/".join(self.path.absolute().parts[-2:]),
            "num_images": num_codes,
            "dimensions": latent_dim,
            "code_side": code_side(self.run.model.generator),
            "image_size": self.image_format.size,
            "rows": self.map.rows.tolist(),
            "map": self.map.places["pca"],
            "tile": self.map.tile,
            "sheets": [f"thumbnails/{number}" for number in range(self.map.num_sheets)],
            "has_images": self.images.present,
            "directions": list(self.directions),
            "attributes": attributes.values if attributes else {},
            "paths": self.paths,
            "path": default_path(self.run) if self.has_flow() else "arc",
            "priors": [name for name in PRIORS if name != "flow" or enough_codes(len(self.run.rows))],
            "prior": self.run.default_prior,
            "quick_priors": self._quick_priors(),
            "flow_needs": MIN_CODES,
            "fractions": FRACTIONS,
        }

    def image(self, row: int) -> dict[str, Any]:
        """A training image, what the generator makes of its code, key and labels, and the images nearest by code."""
        made, quality = self.decoded(str(row)), {}
        if self.images.present:
            quality["psnr"] = round(self.images.psnr([row]).item(), 2)
        about = {"key": self.images.key(row), "attributes": self.images.labels(row), "made": made}
        return {**self.images.tile(row), **about, **quality, "neighbours": self.images.neighbours(row)}

    def decoded(self, name: str) -> dict[str, Any]:
        """The picture of the code of an image."""
        (code,), (typed,) = self._names.codes([name])
        return {**self._made(code, "sample", "decoded", "--decode", typed), "name": name}

    def mixed(self, names: Sequence[str], weights: Sequence[float], path: str) -> dict[str, Any]:
        """The picture of images mixed by weights; see ``Mixer``."""
        self.check_path(path)
        weights = [float(f"{weight:g}") for weight in weights]
        codes, typed = self._names.codes(names)
        check_weights(weights, len(names))
        key = (tuple(names), path)
        mixer = self._mixers.get(key)
        if mixer is None:
            with self._slow if path == "flow" else contextlib.nullcontext():  # it may have to be fitted
                mixer = Mixer(self.run, codes, path)
            if path == "flow" and len(names) == 2:  # one alone is slow, and all together take hardly longer
                mixer.prepare([(1 - part / FRACTIONS, part / FRACTIONS) for part in range(FRACTIONS + 1)])
            keep_newest(self._mixers, key, mixer)
        options = ("--path", path, "--weights", *(f"{weight:g}" for weight in weights))
        return self._made(mixer(weights), "interpolate", "mix", *typed, *options)

    def is_quick(self, names: Sequence[str], path: str = "line") -> bool:
        """Whether a picture of these images needs neither a flow that is fitted, or read, nor codes of uploads."""
        return (path != "flow" or (tuple(names), path) in self._mixers) and not self._names.need_encoding(names)

    def check_path(self, path: str) -> None:
        """Raise InputError for a path that this run does not have."""
        check_choice("path", path, tuple(self.paths))

    def moved(self, name: str | None, names: Sequence[str], amounts: Sequence[float]) -> dict[str, Any]:
        """The picture of an image's code, or the mean code, moved along directions of these names."""
        if len(names) != len(amounts):
            raise InputError("amounts", len(amounts), f"are for {len(names)} directions. Give one for each.")
        moves = [(direction, float(f"{amount:g}")) for direction, amount in zip(names, amounts, strict=True)]
        (origin,), typed = (
            (self.run.trained_codes.mean(0, keepdim=True), []) if name is None else self._names.codes([name])
        )
        code = self.run.model.project(move(origin, self.directions, moves))
        start = ["--image", *typed] if typed else []
        texts = [f"{direction}:{amount:g}" for direction, amount in moves] or ["1:0"]
        own = {} if name is None or any(amounts) else {"name": name}
        return {**self._made(code, "walk", "walk", *start, "--move", *texts), **own}

    def samples(
        self,
        prior: str,
        num: int,
        seed: int,
        temperature: float,
        conditions: Sequence[str],
        guidance: float,
        neighbours: bool = True,
    ) -> dict[str, Any]:
        """Pictures of new codes, each with the training images nearest by code and by pixels if they are asked for."""
        check_choice("prior", prior, tuple(PRIORS))
        parsed = parse_conditions(self.run, conditions)
        with self._slow:
            if prior not in self._priors:
                self._priors[prior] = self.run.fit_prior(make_prior(prior))
        fitted = self._priors[prior]
        guided = takes_conditions(fitted) and self.run.attributes is not None
        options = (seed, temperature, parsed, guidance if guided else None)
        codes = sample_codes(fitted, self.run.trained_codes, num, self.run.model.project, *options)
        images = generate(self.run.model, codes)
        near = self.images.nearest(codes, images) if neighbours else [[] for _ in codes]
        flags = ["--prior", prior, "--num", str(num), "--seed", str(seed), "--temperature", f"{temperature:g}"]
        flags += ["--condition", *conditions] if conditions else []
        flags += ["--guidance", f"{guidance:g}"] if guided else []
        pictures = [
            {
                "image": as_url(image),
                "code": as_text(code),
                "near": tiles,
                "command": self._sample(*flags, f"--pick={i}"),
            }
            for i, (image, code, tiles) in enumerate(zip(images, codes, near, strict=True), 1)
        ]
        return {"samples": pictures, "command": self._sample(*flags)}

    def _sample(self, *flags: str) -> str:
        return self.commands.line("sample", "samples", *flags)

    def strip(self, names: Sequence[str], path: str, steps: int) -> dict[str, Any]:
        """The images that interpolate.py draws from each image to the next, a row for each pair, and its command."""
        _, frames = self._strip(names, path, steps)
        self._fitted |= path == "flow"
        pairs = [name for pair in itertools.pairwise(self._names.codes(names)[1]) for name in pair]
        animation = self.commands.output("strip", ".webp", *pairs, path)
        arguments = (*pairs, "--path", path, "--steps", str(steps), "--animation", animation)
        command = self.commands.line("interpolate", "strip", *arguments)
        return {"rows": [list(map(as_url, row)) for row in frames.split(steps)], "command": command}

    def strip_file(self, names: Sequence[str], path: str, steps: int, kind: str) -> bytes:
        """The file of a strip, ``png``, or an animated ``webp``; nothing is fitted for it."""
        if path == "flow" and not self._fitted:
            raise InputError("path", path, "no strip along it was shown. Show one first.")
        picture, frames = self._strip(names, path, steps)
        file = io.BytesIO()
        if kind == "webp":
            write_animation(file, frames)
        else:
            picture.save(file, "PNG", optimize=True)
        return file.getvalue()

    def _strip(self, names: Sequence[str], path: str, steps: int) -> tuple[Image.Image, Tensor]:
        self.check_path(path)
        if not 2 <= len(names) <= MAX_IN_STRIP:
            raise InputError("images", len(names), f"a strip is between images. Give 2 to {MAX_IN_STRIP}.")
        pairs = [name for pair in itertools.pairwise(names) for name in pair]
        codes, typed = self._names.codes(pairs)
        ends = label_cells(typed, map(self._names.pixels, pairs))
        with self._slow:
            picture, _, frames = interpolation_strips(self.run, codes, ends, [path], steps)
        return picture, frames

    def upload(self, record: bytes, file: str, encode: bool) -> dict[str, Any]:
        """Take an image file's bytes, and encode it if the page says so; see ``Uploads.add``."""
        name, upload = self._names.uploads.add(record, file, self.image_format)
        about = {"name": name, "file": upload.file, "image": as_url(upload.pixels)}
        if not encode:
            return about
        made = generate(self.run.model, self._names.codes([name])[0])
        note = self.filler.note(made.cpu(), from_uint8(upload.pixels[None]))
        return {**about, "made": self.decoded(name), "note": note}

    def save(self, name: str, code: str) -> dict[str, str]:
        """Save a code; see ``SavedCodes.save``."""
        name = self.saved.save(name, code)
        file = str(self.run.codes_folder / f"{name}.npy")
        return {"name": name, "command": self.commands.line("sample", "decoded", "--decode", file)}

    def saved_codes(self) -> list[dict[str, str]]:
        """The names and pictures of saved codes."""
        names, codes = self.saved.all()
        images = generate(self.run.model, codes) if names else codes
        return [{"name": name, "image": as_url(image)} for name, image in zip(names, images, strict=True)]

    def _quick_priors(self) -> list[str]:
        """The priors that draw at once: they need no long fit, or are fitted already."""
        return ["gaussian", "diagonal", *(["flow"] if self.has_flow() else []), *self._priors]

    def has_flow(self) -> bool:
        """Whether a flow is saved with the run: fitting one takes minutes, so the page does not start with it."""
        folder = self.run.folder
        return folder is not None and any((folder / "priors").glob("flow-*.pt"))

    def _made(self, code: Tensor, script: str, output: str, *arguments: str) -> dict[str, Any]:
        (image,) = generate(self.run.model, code[None])
        command = self.commands.line(script, output, *arguments)
        return {"image": as_url(image), "code": as_text(code), "command": command}
