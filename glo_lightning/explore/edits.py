"""What the commands and the page make of codes: mixes, moves, strips between images, filled images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glo_lightning.errors import InputError
from glo_lightning.explore.evaluation import generate
from glo_lightning.explore.paths import WAYS, mix, nearest, principal_axes
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.priors import default_prior
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.images import NotAnImageError, from_uint8, reading_image, to_uint8


def default_way(trained: TrainedRun) -> str:
    """``flow`` where there are enough codes for one, else ``arc``."""
    return "flow" if default_prior(*trained.model.latents.weight.shape) == "flow" else "arc"


class Mixer:
    """Mixes of some images; their places on the way are found once.

    Args:
        trained: the run.
        codes: (M, D), of the images.
        way: ``flow``, ``line`` or ``arc``.
    """

    def __init__(self, trained: TrainedRun, codes: Tensor, way: str):
        enter, self._leave = trained.chart(way)
        self._codes, self._straight, self._project = codes, way == "line", trained.model.project
        self._places = enter(codes)
        self._prepared: dict[tuple[float, ...], Tensor] = {}

    def __call__(self, weights: Sequence[float]) -> Tensor:
        """The code (D,) of the images mixed by these weights; of one with all the weight its own. See ``mix``."""
        weights = tuple(weights)
        return self._prepared[weights] if weights in self._prepared else self._mixes([weights])[0]

    def prepare(self, weights: Sequence[tuple[float, ...]]) -> None:
        """Finds the codes of several mixes at once: a flow takes hardly longer for many than for one."""
        self._prepared.update(zip(weights, self._mixes(weights), strict=True))

    def _mixes(self, weights: Sequence[tuple[float, ...]]) -> Tensor:
        mixed = self._project(self._leave(torch.stack([mix(self._places, some, self._straight) for some in weights])))
        for code, some in zip(mixed, weights, strict=True):
            if max(some) == sum(some):
                code.copy_(self._codes[some.index(max(some))])
        return mixed


def interpolation(
    trained: TrainedRun, codes: Tensor, images: Tensor, ways: Sequence[str], steps: int
) -> tuple[Image.Image, Tensor, Tensor]:
    """The strip of each pair of images by each way.

    Args:
        trained: the run.
        codes: (2 P, D), of the starts and ends of P pairs in turn.
        images: (2 P, 3, H, W), theirs.
        ways: of ``flow``, ``line`` and ``arc``.
        steps: images in a row, the ends among them.

    Returns:
        The picture, the codes in it (P * ways * steps, D), and their images, (P * ways * steps, 3, H, W) in [-1, 1].
    """
    by_name = {name: WAYS[name] if name in WAYS else trained.flow_way() for name in ways}
    pairs = codes.unflatten(0, (-1, 2))
    project = trained.model.project
    paths = torch.cat([way(start, end, steps, project) for start, end in pairs for way in by_name.values()])
    made = generate(trained.model, paths).cpu()
    starts, goals = (images[end::2].repeat_interleave(len(ways), dim=0) for end in (0, 1))
    rows = [[start, "", *row, "", goal] for start, row, goal in zip(starts, made.split(steps), goals, strict=True)]
    columns = ["from", "  ", "its code", *[""] * (steps - 2), "its code", "  ", "to"]
    title = "Interpolation: the code of one image turns into that of another"
    return picture(rows, title, columns, [*by_name] * len(pairs)), paths, made


def directions(trained: TrainedRun, num_axes: int) -> dict[str, Tensor]:
    """The directions (D,) that a code can be moved in, by name.

    ``1``, ``2``, ... are the principal axes, each as long as the codes' standard deviation along it; ``name=value``
    leads from the mean code of the training images without that attribute to the mean of those with it.

    Raises:
        InputError: for more axes than dimensions.
    """
    table = trained.model.latents.weight.detach()
    found = {str(number): axis for number, axis in enumerate(principal_axes(table, num_axes), 1)}
    attributes = trained.found_data.attributes if trained.found_data else None
    if attributes is None:
        return found
    for column, (name, values) in enumerate(attributes.values.items()):
        numbers = attributes.table[: len(table), column].to(table.device)
        sums = table.new_zeros(len(values), table.shape[1]).index_add_(0, numbers, table)
        counts = numbers.bincount(minlength=len(values))
        for value, total, count in zip(values, sums, counts.tolist(), strict=True):
            if 0 < count < len(table):
                found[f"{name}={value}"] = total / count - (sums.sum(0) - total) / (len(table) - count)
    return found


def moved(origin: Tensor, along: Mapping[str, Tensor], moves: Sequence[tuple[str, float]]) -> Tensor:
    """The place ``origin`` (D,) moved along some directions, each so many times its length; not projected.

    Raises:
        InputError: for a direction that does not exist, or an amount that is not finite.
    """
    for name, amount in moves:
        if name not in along:
            axes = sum(direction.isdigit() for direction in along)
            attributes = ", or name=value of an attribute" if len(along) > axes else ""
            raise InputError("move", name, f"is no direction; give an axis from 1 to {axes}{attributes}")
        if not abs(amount) < float("inf"):
            raise InputError("move", f"{name}:{amount}", "is no finite amount; give a few standard deviations")
        origin = origin + amount * along[name]
    return origin


def nearest_rows(trained: TrainedRun, codes: Tensor, images: Tensor) -> tuple[list[int], list[int]]:
    """The training images nearest to codes (M, D) and, by pixels, to their images (M, C, H, W) in [-1, 1]."""
    table = trained.model.latents.weight
    by_code = nearest(codes, [(table, torch.arange(len(table)))])
    by_pixels = nearest(to_uint8(images), trained.data.ordered_dataloader())
    twins = trained.data.rows_per_image  # an image is shown, not its mirror image
    return (by_code - by_code % twins).tolist(), (by_pixels - by_pixels % twins).tolist()


def read_mask(record: bytes, name: object, image_size: int) -> Tensor:
    """A mask (1, H, W) from an image file's bytes: 1 where its pixels are brighter than half, 0 where missing.

    Raises:
        InputError: for what is no image, is of another size, or leaves no pixel.
    """
    try:
        with reading_image(), Image.open(io.BytesIO(record)) as opened:
            width, height = opened.size
            pixels = np.asarray(opened.convert("L")) if width == height == image_size else None
    except NotAnImageError as error:
        raise InputError("mask", name, f"is no image ({error})") from error
    if pixels is None:
        raise InputError("mask", name, f"is of {width}x{height} pixels; give one of {image_size}x{image_size}")
    mask = torch.from_numpy(pixels > 127).float()[None]
    if not mask.any():
        raise InputError("mask", name, "leaves no pixel (all of it is black); white pixels are the known ones")
    return mask


def filled(pixels: Tensor, generated: Tensor, mask: Tensor) -> Tensor:
    """Images (M, 3, H, W), uint8, their missing pixels taken from what was generated, in [-1, 1]: in [-1, 1]."""
    return from_uint8(pixels) * mask + generated * (1 - mask)
