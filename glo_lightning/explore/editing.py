"""Edits of codes: mixes, strips between images, moves along directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from glo_lightning.errors import InputError
from glo_lightning.explore.codes import generate
from glo_lightning.explore.flows import EVENNESS, edit_space, fitted_flow, interpolation, path_places
from glo_lightning.explore.paths import MAX_AMOUNT, check_weights, mix, principal_axes, resample_path
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import TrainedRun


class Mixer:
    """Mixes some images; what all their mixes share is computed once.

    Args:
        run: the run.
        codes: (M, D), of the images.
        path: ``flow``, ``line`` or ``arc``.
    """

    def __init__(self, run: TrainedRun, codes: Tensor, path: str):
        self._codes, self._straight, self._project = codes, path == "line", run.model.project
        self._prepared: dict[tuple[float, ...], Tensor] = {}
        self._path = None
        if path == "flow" and len(codes) == 2:
            self._path = path_places(fitted_flow(run), codes[0], codes[1], self._project)
        else:
            enter, self._leave = edit_space(run, path)
            self._places = enter(codes)

    def __call__(self, weights: Sequence[float]) -> Tensor:
        """Mix the images by weights, see ``mix``: (D,). An image that has all the weight keeps its own code."""
        weights = tuple(weights)
        return self._prepared[weights] if weights in self._prepared else self._mixes([weights])[0]

    def prepare(self, weights: Sequence[tuple[float, ...]]) -> None:
        """Compute several mixes in advance: a flow needs hardly longer for many than for one."""
        self._prepared.update(zip(weights, self._mixes(weights), strict=True))

    def _mixes(self, weights: Sequence[tuple[float, ...]]) -> Tensor:
        if self._path is None:
            places = torch.stack([mix(self._places, shares, self._straight) for shares in weights])
            mixed = self._project(self._leave(places))
        else:
            for shares in weights:
                check_weights(shares, len(self._codes))
            fractions = torch.tensor([second / (first + second) for first, second in weights])
            mixed = resample_path(self._path, fractions, EVENNESS)
        for code, shares in zip(mixed, weights, strict=True):
            if max(shares) == sum(shares):
                code.copy_(self._codes[shares.index(max(shares))])
        return mixed


def interpolation_strips(
    run: TrainedRun, codes: Tensor, images: Tensor, paths: Sequence[str], steps: int
) -> tuple[Image.Image, Tensor, Tensor]:
    """Draw a strip from image to image for each pair and each path.

    Args:
        run: the run.
        codes, images: of P pairs, start and end in turn, (2 P, D) and (2 P, C, H, W).
        paths: of ``flow``, ``line`` and ``arc``.
        steps: images in a strip, both ends included.

    Returns:
        The picture, its codes (P * paths * steps, D), and their images, (P * paths * steps, C, H, W) in [-1, 1].
    """
    by_name = {name: interpolation(run, name) for name in paths}
    pairs = codes.unflatten(0, (-1, 2))
    project = run.model.project
    strips = torch.cat([path(start, end, steps, project) for start, end in pairs for path in by_name.values()])
    frames = generate(run.model, strips).cpu()
    starts, ends = (images[end::2].repeat_interleave(len(paths), dim=0) for end in (0, 1))
    rows = [[start, "", *row, "", end] for start, row, end in zip(starts, frames.split(steps), ends, strict=True)]
    columns = ["from", "  ", "its code", *[""] * (steps - 2), "its code", "  ", "to"]
    title = "Interpolation: the code of one image turns into that of another"
    return picture(rows, title, columns, [*by_name] * len(pairs)), strips, frames


def directions(run: TrainedRun, num_axes: int) -> dict[str, Tensor]:
    """Find the directions (D,) that a code can be moved in, by name.

    ``1``, ``2``, ... are the principal axes, each as long as the codes' standard deviation along it. ``name=value``
    leads from the mean code of the training images with other values of ``name`` to the mean code of those with this
    one. Images for which ``name`` is not known are left out.

    Raises:
        InputError: for more axes than dimensions.
    """
    codes = run.trained_codes
    by_name = {str(number): axis for number, axis in enumerate(principal_axes(codes, num_axes), 1)}
    attributes = run.attributes
    for column, (name, values) in enumerate(attributes.values.items() if attributes else ()):
        numbers = attributes.table[run.rows, column].to(codes.device)  # type: ignore[union-attr]
        known = numbers >= 0
        sums = codes.new_zeros(len(values), codes.shape[1]).index_add_(0, numbers[known], codes[known])
        counts = numbers[known].bincount(minlength=len(values))
        for value, total, count in zip(values, sums, counts.tolist(), strict=True):
            others = int(counts.sum()) - count
            if count and others:
                by_name[f"{name}={value}"] = total / count - (sums.sum(0) - total) / others
    return by_name


def move(origin: Tensor, directions: Mapping[str, Tensor], moves: Sequence[tuple[str, float]]) -> Tensor:
    """Move a code (D,) along directions, each by a multiple of its length; the result is not projected.

    Raises:
        InputError: for a direction that does not exist, or an amount out of range.
    """
    for name, amount in moves:
        if name not in directions:
            axes = sum(direction.isdigit() for direction in directions)
            labels = ", or name=value of a label" if len(directions) > axes else ""
            raise InputError("move", name, f"there is no such direction. Give an axis from 1 to {axes}{labels}.")
        if not abs(amount) <= MAX_AMOUNT:
            remedy = f"must move by at most {MAX_AMOUNT} standard deviations. Give a few."
            raise InputError("move", f"{name}:{amount}", remedy)
        origin = origin + amount * directions[name]
    return origin
