"""What the page of browse.py asks of a run: pictures with their codes and the commands that make them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
import logging
import math
import re
import shlex
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from glo_lightning.errors import InputError
from glo_lightning.explore.commands import write_animation
from glo_lightning.explore.editing import (
    Mixer,
    default_way,
    directions,
    interpolation,
    moved,
    nearest_rows,
    restoring_codes,
)
from glo_lightning.explore.metrics import generate
from glo_lightning.explore.operators import Mask, read_mask, restored
from glo_lightning.explore.paths import WAYS, principal_axes
from glo_lightning.explore.saved_codes import save_codes
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import write_whole
from glo_lightning.images import (
    ImageFormat,
    NotAnImageError,
    decode_image,
    from_pixels,
    from_uint8,
    reading_image,
    to_uint8,
)
from glo_lightning.priors.flow import FEWEST, Flow
from glo_lightning.priors.prior import PRIORS, Prior, default_prior, sample_codes

log = logging.getLogger(__name__)

SHOWN = 5000  # images on the map, at most
TILE = 48  # pixels of a thumbnail, at most
AXES = 12
FRACTIONS = 32  # of the slider between two images
MOST_PIXELS = 50_000_000  # of an upload
KEPT = 64  # uploads in memory, and mixers
VERSION = 1  # of the map's file


@dataclass
class Upload:
    """An image that came from the browser: the name of its file, its pixels (3, H, W), and its code once asked for."""

    file: str
    pixels: Tensor
    code: Tensor | None = None


class Explorer:
    """Answers the page. Images are named by index, ``name=value``, as ``upload-3``, or as a code that was saved.

    Args:
        trained: the run.
        run: as the user gave it, for the commands.
        flags: that the commands need to find the same run, such as ``--data.root``.
    """

    def __init__(self, trained: TrainedRun, run: Path, flags: Sequence[str] = ()):
        self.trained, self.run, self.flags = trained, run, flags
        self.table = trained.model.latents.weight.detach()
        self.image_size: int = trained.model.hparams["image_size"]
        self.data = trained.found_data
        num_codes, latent_dim = self.table.shape
        random = torch.Generator().manual_seed(0)
        self.rows = torch.randperm(num_codes, generator=random)[:SHOWN].sort().values
        self.along = directions(trained, min(AXES, latent_dim))
        self.maps = {"pca": _fitted_in(self.table[self.rows] @ principal_axes(self.table, min(2, latent_dim)).T)}
        self.ways = list(WAYS) if num_codes < FEWEST else ["flow", *WAYS]
        self.thumbnails = self._thumbnails()
        self.codes_folder = (run if run.is_dir() else run.parent) / "codes"
        if self.data is not None:
            trained.encoder()  # warns of one of another checkpoint, or refuses a damaged one, before the page is opened
        self._uploads: OrderedDict[str, Upload] = OrderedDict()
        self._num_uploads = 0
        self._mixers: OrderedDict[Any, Mixer] = OrderedDict()
        self._priors: dict[str, Prior] = {}
        self._slow = threading.Lock()  # one encoding or fit at a time

    def about(self) -> dict[str, Any]:
        """What the page shows before anything is asked."""
        attributes = self.data.attributes if self.data else None
        num_codes, latent_dim = self.table.shape
        return {
            "run": "/".join(self.run.absolute().parts[-2:]),
            "num_images": num_codes,
            "image_size": self.image_size,
            "rows": self.rows.tolist(),
            "map": self.maps["pca"],
            "tile": min(TILE, self.image_size),
            "has_images": self.data is not None,
            "directions": list(self.along),
            "attributes": attributes.values if attributes else {},
            "ways": self.ways,
            "way": default_way(self.trained) if self._has_flow() else "arc",
            "priors": [name for name in PRIORS if name != "flow" or num_codes >= FEWEST],
            "prior": default_prior(num_codes, latent_dim),
            "fractions": FRACTIONS,
            "lacks": "" if self.data else "There is no strip: interpolate.py shows the images themselves at its ends.",
        }

    def check_way(self, way: str) -> None:
        """Raises InputError for a way that this run does not have."""
        if way not in self.ways:
            raise InputError("way", way, f"give one of {', '.join(self.ways)}")

    def find(self, text: str) -> list[int]:
        """The rows whose index, key (in part) or attribute (``name=value``, or a value) is ``text``."""
        attributes = self.data.attributes if self.data else None
        if re.fullmatch(r"[0-9]{1,12}", text) and int(text) < len(self.table):
            return [int(text)]
        for name, values in attributes.values.items() if attributes else ():
            for value in values:
                if text and text in (value, f"{name}={value}"):
                    rows = attributes.rows([f"{name}={value}"])  # type: ignore[union-attr]
                    return rows[rows < len(self.table)].tolist()
        keys = [(row, self.key(row)) for row in range(len(self.table))] if self.data and text else []
        found = [row for row, key in keys if text in key]
        if not found:
            raise InputError("search", text, "no image has this index, key or label")
        return found

    def key(self, row: int) -> str:
        """The key of a training image, where these are there."""
        assert self.data is not None
        return self.data.source.key(row).decode(errors="backslashreplace")

    def image(self, row: int) -> dict[str, Any]:
        """A training image, its reconstruction, key, attributes and the rows of its nearest neighbours by code."""
        made = self.decoded(str(row))
        distances = torch.linalg.vector_norm(self.table - self.table[row], dim=1)
        distances[row] = -1
        near = distances.topk(min(9, len(self.table)), largest=False).indices[1:].tolist()
        about = {} if self.data is None else {"key": self.key(row), "image": self._training_image(row)}
        labels: list[str] = []
        attributes = self.data.attributes if self.data else None
        for column, (name, values) in enumerate(attributes.values.items() if attributes else ()):
            number = int(attributes.table[row, column])  # type: ignore[union-attr]
            if number >= 0 and values[number]:
                labels.append(f"{name}={values[number]}")
        neighbours = [{"row": other, "image": self._training_image(other)} for other in near] if self.data else []
        return {**about, "row": row, "made": made, "attributes": labels, "neighbours": neighbours}

    def decoded(self, name: str) -> dict[str, Any]:
        """The picture of the code of one image."""
        (code,), (given,) = self._codes([name])
        return self._made(code, "sample", "decoded", "--decode", given)

    def mixed(self, names: Sequence[str], weights: Sequence[float], way: str) -> dict[str, Any]:
        """The picture of some images mixed by weights; see ``Mixer``."""
        self.check_way(way)
        weights = [float(f"{weight:g}") for weight in weights]
        codes, given = self._codes(names)
        key = (tuple(names), way)
        if key not in self._mixers:
            with self._slow if way == "flow" else contextlib.nullcontext():  # it may have to be fitted
                mixer = Mixer(self.trained, codes, way)
            if way == "flow" and len(names) == 2:  # all at once takes hardly longer than one, which is slow
                mixer.prepare([(1 - part / FRACTIONS, part / FRACTIONS) for part in range(FRACTIONS + 1)])
            _keep(self._mixers, key, mixer)
        asked = ("--way", way, "--weights", *(f"{weight:g}" for weight in weights))
        return self._made(self._mixers[key](weights), "interpolate", "mix", *given, *asked)

    def moved(self, name: str | None, moves: Sequence[tuple[str, float]]) -> dict[str, Any]:
        """The picture of an image's code, or the mean code, moved along some directions."""
        moves = [(direction, float(f"{amount:g}")) for direction, amount in moves]
        (origin,), given = (self.table.mean(0, keepdim=True), []) if name is None else self._codes([name])
        code = self.trained.model.project(moved(origin, self.along, moves))
        start = ["--image", *given] if given else []
        texts = [f"{direction}:{amount:g}" for direction, amount in moves] or ["1:0"]
        return self._made(code, "walk", "walk", *start, "--move", *texts)

    def samples(
        self, prior: str, num: int, seed: int, temperature: float, given: Sequence[str], guidance: float
    ) -> dict[str, Any]:
        """Pictures of new codes, each with the training images nearest by code and by pixels."""
        if prior not in PRIORS:
            raise InputError("prior", prior, f"give one of {', '.join(PRIORS)}")
        numbers = self.trained.given(given) if given else None
        with self._slow:
            fitted = self._priors.get(prior) or self.trained.prior(prior)
        self._priors[prior] = fitted
        guided = isinstance(fitted, Flow) and bool(fitted.counts)
        how = (seed, temperature, numbers, guidance if guided else None)
        codes = sample_codes(fitted, self.table, num, self.trained.model.project, *how)
        images = generate(self.trained.model, codes)
        near: list[list[dict[str, Any]]] = [[] for _ in range(num)]
        if self.data is not None:
            for rows in nearest_rows(self.trained, codes, images):
                for some, row in zip(near, rows, strict=True):
                    some.append({"row": row, "image": self._training_image(row)})
        asked = ["--prior", prior, "--num", num, "--seed", seed, "--temperature", f"{temperature:g}"]
        asked += ["--given", *given] if given else []
        asked += ["--guidance", f"{guidance:g}"] if guided else []
        command = self._command("sample", "samples", *map(str, asked))
        pictures = [
            {"image": _as_url(image), "code": _as_text(code), "near": some, "command": command}
            for image, code, some in zip(images, codes, near, strict=True)
        ]
        return {"samples": pictures, "command": command}

    def strip(self, names: Sequence[str], way: str, steps: int, kind: str) -> bytes:
        """What interpolate.py writes for each image and the one after it: ``png``, or a moving ``webp``."""
        if len(names) < 2:
            raise InputError("images", " ".join(names), "a strip is between images; give two or more")
        pairs = [name for pair in itertools.pairwise(names) for name in pair]
        codes, _ = self._codes(pairs)
        pixels = torch.stack([self._pixels(name) for name in pairs])
        shown, _, frames = interpolation(self.trained, codes, pixels, [way], steps)
        file = io.BytesIO()
        if kind == "webp":
            write_animation(file, frames)
        else:
            shown.save(file, "PNG", optimize=True)
        return file.getvalue()

    def strip_command(self, names: Sequence[str], way: str, steps: int) -> str:
        """The command of ``strip``."""
        given = self._codes(names)[1]
        pairs = [name for pair in itertools.pairwise(given) for name in pair]
        animation = self._output("strip", ".webp", *pairs, way)
        arguments = (*pairs, "--way", way, "--steps", str(steps), "--animation", animation)
        return self._command("interpolate", "strip", *arguments)

    def upload(self, record: bytes, file: str, encode: bool) -> dict[str, Any]:
        """Takes an image file's bytes, and finds its code if that is wanted at once.

        Raises:
            InputError: for what is no image, moves, or has more than 50 megapixels.
        """
        file = re.split(r"[/\\]", file)[-1][:200] or "image"
        file = f"./{file}" if file.startswith("-") or file.isdigit() else file  # a command takes it for a file, too
        try:
            with warnings.catch_warnings(), reading_image():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(record)) as opened:
                    size, moving = opened.size, getattr(opened, "is_animated", False)
        except Image.DecompressionBombWarning:
            size, moving = (MOST_PIXELS, 2), False
        except NotAnImageError as error:
            raise InputError("upload", file, f"is no image ({error}); give a PNG, JPEG or WebP") from error
        if math.prod(size) > MOST_PIXELS:
            raise InputError("upload", file, f"has more than {MOST_PIXELS // 10**6} megapixels; make it smaller")
        if moving:
            raise InputError("upload", file, "is animated; give a still image")
        try:
            channels = self.trained.model.hparams["channels"]
            image_format = self.data.image_format if self.data else ImageFormat(self.image_size, channels)
            pixels = decode_image(record, image_format)
        except NotAnImageError as error:
            raise InputError("upload", file, f"is no whole image ({error}); give another") from error
        self._num_uploads += 1
        name = f"upload-{self._num_uploads}"
        _keep(self._uploads, name, Upload(file, pixels))
        about = {"name": name, "file": file, "image": _as_url(pixels)}
        return {**about, "made": self.decoded(name)} if encode else about

    def filled(self, name: str, mask: bytes) -> dict[str, Any]:
        """An upload whose black pixels of the mask are filled from the learned space."""
        known, pixels = read_mask(mask, "painted", self.image_size), self._upload(name).pixels[None]
        with self._slow:
            given, operator = from_uint8(pixels) * known, Mask(known)
            codes = restoring_codes(self.trained, given, operator)
        image = restored(generate(self.trained.model, codes).cpu(), given, operator.cpu())[0]
        file = self._upload(name).file
        output = self._output("filled", "", file, hashlib.sha256(mask).hexdigest())
        command = self._command("encode", None, file, "--mask", "mask.png", "--output", output)
        return {"image": _as_url(image), "code": _as_text(codes[0]), "command": command}

    def save(self, name: str, code: str) -> dict[str, str]:
        """Saves a code under a name of letters, digits, ``-`` and ``_`` in ``codes/`` of the run folder.

        Raises:
            InputError: for another name, one that is taken, or what is no code of this run.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name):
            raise InputError("name", name, "give letters, digits, - and _, 60 at most")
        try:
            numbers = np.frombuffer(base64.b64decode(code, validate=True), np.float32)
        except ValueError as error:
            raise InputError("code", code[:20], "is no code") from error
        if numbers.shape != self.table.shape[1:] or not np.isfinite(numbers).all():
            raise InputError("code", code[:20], f"is no code of {self.table.shape[1]} numbers")
        path = self.codes_folder / f"{name}.npy"
        if path.exists():
            raise InputError("name", name, "is taken; give another")
        try:
            path.parent.mkdir(exist_ok=True)
            save_codes(path, torch.from_numpy(numbers.copy())[None], self.trained.digest)
        except OSError as error:
            raise InputError("codes", path, f"cannot be written ({error.strerror})") from error
        return {"name": path.name, "command": self._command("sample", "decoded", "--decode", str(path))}

    def draw_map(self) -> None:
        """Finds the t-SNE map of the codes, or the one kept in ``maps/`` of the run folder; takes a minute."""
        codes = self.table[self.rows].cpu().contiguous().numpy()
        digest = hashlib.sha256(codes.tobytes() + bytes([VERSION])).hexdigest()[:16]
        file = None if self.trained.folder is None else self.trained.folder / "maps" / f"tsne-{digest}.npy"
        places = None
        if file is not None and file.is_file():
            try:
                places = np.load(file, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                log.warning("%s cannot be read (%s); the map is made anew", file, error)
        if not isinstance(places, np.ndarray) or places.shape != (len(codes), 2):
            places = _tsne(codes)
            if file is not None:
                try:
                    file.parent.mkdir(exist_ok=True)
                    write_whole(file, lambda opened: np.save(opened, places), shared=True)
                except OSError as error:
                    log.warning("%s cannot be written (%s)", file, error.strerror)
        self.maps["tsne"] = _fitted_in(torch.from_numpy(places))

    def _has_flow(self) -> bool:
        """Whether a flow is kept with the run: to fit one takes minutes, and is not done unasked."""
        folder = self.trained.folder
        return folder is not None and any((folder / "priors").glob("flow-*.pt"))

    def _codes(self, names: Sequence[str]) -> tuple[Tensor, list[str]]:
        """The codes (M, D) of images that the page names, and their names in a command."""
        codes, given = [], []
        for name in names:
            if name.startswith("upload-"):
                upload = self._upload(name)
                with self._slow:
                    if upload.code is None:
                        upload.code = self.trained.encode(upload.pixels[None])[0]
                codes.append(upload.code)
                given.append(upload.file)
                continue
            known = self._known(name)
            codes.append(self.trained.codes([known])[0])
            given.append(known)
        return torch.stack(codes), given

    def _known(self, name: str) -> str:
        """The name for a command; nothing that the page says can be another path than a saved code's."""
        if re.fullmatch(r"[0-9]{1,12}", name) or ("=" in name and name in self.along):
            return name
        if re.fullmatch(r"[A-Za-z0-9_-]{1,60}\.npy", name):
            return str(self.codes_folder / name)
        raise InputError("image", name, "is not known; give an index, name=value, or the name of a saved code (.npy)")

    def _upload(self, name: str) -> Upload:
        if name not in self._uploads:
            raise InputError("upload", name, "is forgotten; choose the file again")
        return self._uploads[name]

    def _pixels(self, name: str) -> Tensor:
        if name.startswith("upload-"):
            return self._upload(name).pixels
        return self.trained.codes_of([self._known(name)])[1][0]

    def _made(self, code: Tensor, script: str, output: str, *arguments: str) -> dict[str, Any]:
        (image,) = generate(self.trained.model, code[None])
        return {"image": _as_url(image), "code": _as_text(code), "command": self._command(script, output, *arguments)}

    def _command(self, script: str, output: str | None, *arguments: str) -> str:
        flags = self.flags if output is None else [*self.flags, "--output", self._output(output, ".png", *arguments)]
        return shlex.join(["python", f"scripts/{script}.py", str(self.run), *arguments, *flags])

    def _output(self, name: str, suffix: str, *arguments: str) -> str:
        """A name that no other picture has: one command after another can be run."""
        return f"{name}-{hashlib.sha256(repr(arguments).encode()).hexdigest()[:6]}{suffix}"

    def _training_image(self, row: int) -> str:
        return _as_url(self.trained.images([row])[0])

    def _thumbnails(self) -> bytes | None:
        """All images of the map in one JPEG, row by row, as many in a row as in a column; None without images."""
        if self.data is None:
            return None
        tile, columns = min(TILE, self.image_size), math.ceil(math.sqrt(len(self.rows)))
        tiles = torch.zeros(columns * columns, 3, tile, tile, dtype=torch.uint8)
        for first in range(0, len(self.rows), 256):
            images = self.trained.images(self.rows[first : first + 256].tolist())
            tiles[first : first + len(images)] = F.interpolate(images.float(), (tile, tile), mode="area").round().byte()
        sheet = tiles.view(columns, columns, 3, tile, tile).permute(0, 3, 1, 4, 2).reshape(columns * tile, -1, 3)
        file = io.BytesIO()
        Image.fromarray(sheet.numpy()).save(file, "JPEG", quality=88)
        return file.getvalue()


def _tsne(codes: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(codes) < 5:
        return codes[:, :2] if codes.shape[1] > 1 else np.repeat(codes, 2, axis=1)
    with threadpool_limits(1), warnings.catch_warnings():  # the other cores decode
        warnings.simplefilter("ignore", RuntimeWarning)
        return TSNE(perplexity=min(30, (len(codes) - 1) / 3), init="pca", random_state=0).fit_transform(codes)


def _fitted_in(places: Tensor) -> list[list[float]]:
    """Places (n, 1 or 2) in the unit square, their proportions kept, to four digits."""
    places = F.pad(places.detach().cpu().double(), (0, 2 - places.shape[1]))
    low, high = places.min(0).values, places.max(0).values
    return ((places - (low + high) / 2) / (high - low).max().clamp(min=1e-12) + 0.5).mul(1e4).round().div(1e4).tolist()


def _as_url(image: Tensor) -> str:
    """An image (C, H, W), uint8 or in [-1, 1], as a PNG that stands in the page itself."""
    pixels = to_uint8(image) if image.is_floating_point() else image
    file = io.BytesIO()
    from_pixels(pixels.cpu()).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _as_text(code: Tensor) -> str:
    return base64.b64encode(code.detach().cpu().float().numpy().tobytes()).decode()


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    while len(kept) > KEPT:
        kept.popitem(last=False)
