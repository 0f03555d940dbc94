"""Edits of codes: mixes, strips between images, walks, arithmetic, moves along directions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from glo_lightning.errors import InputError, check_at_least, check_range
from glo_lightning.explore.codes import ImageName, check_images_fit, codes_and_images, codes_by_name, generate, is_label
from glo_lightning.explore.flows import EVENNESS, edit_space, fitted_flow, interpolation, path_places
from glo_lightning.explore.neighbours import nearest_codes
from glo_lightning.explore.paths import MAX_AMOUNT, check_weights, mix, principal_axes, resample_path, walk
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.latents import identity


class Mixer:
    """Mixes images of codes (M, D) along ``flow``, ``line`` or ``arc``; what all mixes share is computed once."""

    def __init__(self, run: TrainedRun, codes: Tensor, path: str):
        self._codes, self._straight, self._project = codes, path == "line", run.model.project
        self._prepared: dict[tuple[float, ...], Tensor] = {}
        self._path = None
        if path == "flow" and len(codes) == 2:
            self._path = path_places(fitted_flow(run), codes[0], codes[1], self._project)
        else:
            enter, self._leave = edit_space(run, "flow" if path == "flow" else "line")
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


def check_pairs(images: Sequence[object]) -> None:
    """Raise InputError unless images are pairs of a start and an end."""
    if not images or len(images) % 2:
        given = " ".join(map(str, images)) or "nothing"
        raise InputError("START END", given, "must be pairs. Give an even number of images.")


def label_cells(names: Sequence[ImageName], images: Iterable[Tensor]) -> list[Tensor | str]:
    """The images (C, H, W) of names as cells of a picture: of a label its text, as its code is a mean of many."""
    pairs = zip(names, images, strict=True)
    return [name.replace("=", "=\n") if is_label(name) else image for name, image in pairs]


def interpolation_strips(
    run: TrainedRun, codes: Tensor, ends: Sequence[Tensor | str], paths: Sequence[str], steps: int
) -> tuple[Image.Image, Tensor, Tensor]:
    """Draw a strip of ``steps`` images for each pair of codes (2 P, D), and for each path, between its ``ends``.

    The ends are 2 P images (C, H, W) or texts, see ``label_cells``.

    Returns:
        The picture, its codes (P * paths * steps, D), and their images, (P * paths * steps, C, H, W) in [-1, 1].

    Raises:
        InputError: for fewer than two steps, or more images than fit into memory.
    """
    check_at_least("steps", steps, 2)
    check_images_fit(run, "steps", steps, steps * len(paths) * len(ends))
    by_name = {name: interpolation(run, name) for name in paths}
    pairs = codes.unflatten(0, (-1, 2))
    project = run.model.project
    strips = torch.cat([path(start, end, steps, project) for start, end in pairs for path in by_name.values()])
    frames = generate(run.model, strips).cpu()
    pairs_of_ends = [pair for pair in zip(ends[::2], ends[1::2], strict=True) for _ in paths]
    rows = [[a, "", *row, "", b] for (a, b), row in zip(pairs_of_ends, frames.split(steps), strict=True)]
    columns = ["from", "  ", "its code", *[""] * (steps - 2), "its code", "  ", "to"]
    title = "Interpolation: the code of one image turns into that of another"
    return picture(rows, title, columns, [*by_name] * len(pairs)), strips, frames


def walk_strips(
    run: TrainedRun, image: ImageName | None, axes: int, steps: int, reach: float, path: str
) -> tuple[Image.Image, Tensor, Tensor]:
    """Draw walks along the principal axes of the codes, a strip for each axis; see ``InteractiveRun.walk``.

    Returns:
        The picture, its codes (axes * steps, D), and their images, (axes * steps, C, H, W) in [-1, 1].

    Raises:
        InputError: for a value out of range, or more images than fit into memory.
    """
    enter, leave = edit_space(run, path)
    places = enter(run.trained_codes)
    directions = principal_axes(places, axes)
    check_images_fit(run, "steps", steps, 2 * steps * axes)
    origin = places.mean(0) if image is None else enter(codes_by_name(run, [image]))[0]
    walks = [walk(origin, direction, steps, reach, identity) for direction in directions]
    codes = torch.cat([run.model.project(leave(places)) for places in walks])
    frames = generate(run.model, codes).cpu()
    shifts = torch.linspace(-reach, reach, steps).tolist()
    columns = [f"{shift:+.3g}" if shift else "0" for shift in shifts]
    name = f" {image}" if isinstance(image, str) else ""
    start = "the mean code" if image is None else f"the code of image{name}"
    title = f"Walks: {start} is changed along one principal axis, in standard deviations"
    captions = [f"axis {number}" for number in range(1, axes + 1)]
    return picture(frames.split(steps), title, columns, captions), codes, frames


def arithmetic(
    run: TrainedRun, terms: Sequence[Sequence[ImageName]], strength: float, path: str
) -> tuple[Image.Image, Tensor, Tensor]:
    """Compute the code strength * (a - b) + c and draw its image beside those of a, b and c, the ``terms``.

    Returns:
        The picture, the codes of a, b, c and the result, (4, D), and their images, (4, C, H, W) in [-1, 1].

    Raises:
        InputError: for a strength out of range, and a term without images.
    """
    check_range("strength", strength, -MAX_AMOUNT, MAX_AMOUNT)
    sizes = [len(names) for names in terms]
    if not all(sizes):
        raise InputError("arithmetic", "a, b, c", "one of them has no image. Give at least one for each.")
    codes, images = codes_and_images(run, [name for names in terms for name in names])
    enter, leave = edit_space(run, path)
    a, b, c = (places.mean(0) for places in enter(codes).split(sizes))
    codes = run.model.project(leave(torch.stack([a, b, c, strength * (a - b) + c])))
    generated = generate(run.model, codes).cpu()
    (closest,) = run.images(nearest_codes(run, codes[3:])[0].tolist())
    cells = [label_cells(names, shown) for names, shown in zip(terms, images.split(sizes), strict=True)]
    rows = [[a, None, b, None, c] for a, b, c in itertools.zip_longest(*cells)]
    # the mean of many codes lies where no image does
    means = [
        "their mean" if any(map(is_label, names)) else mean for names, mean in zip(terms, generated[:3], strict=True)
    ]
    rows.append([means[0], "-", means[1], "+", means[2], "=", generated[3], "", closest])
    formula = "a - b + c" if strength == 1 else f"{strength:g} (a - b) + c"
    headings = ["a", " -  ", "b", " + ", "c", " = ", formula, "  ", "nearest\ntraining image"]
    captions = ["images", *[""] * (max(sizes) - 1), "their codes\n(mean)" if max(sizes) > 1 else "their codes"]
    title = "Arithmetic: the codes of a, minus those of b, plus those of c, make a new image"
    return picture(rows, title, headings, captions), codes, generated


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
