"""Paths through the learned space: interpolations, mixes and walks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glo_lightning.errors import InputError, check_at_least
from glo_lightning.latents import Projection, identity

MAX_AMOUNT = 1000  # of a reach, a move or a strength: larger numbers overflow
# (start, end, steps or fractions, project) -> the codes from start to end, both included
Interpolation = Callable[[Tensor, Tensor, int | Tensor, Projection], Tensor]


def lerp(start: Tensor, end: Tensor, steps: int | Tensor, project: Projection) -> Tensor:
    """Interpolate on straight lines from ``start`` to ``end`` (..., D): projected codes (steps, ..., D), ends included.

    ``steps`` may also be fractions of the path, (steps,).

    Raises:
        InputError: for fewer than two steps.
    """
    if not isinstance(steps, Tensor):
        check_at_least("steps", steps, 2)
    return project(torch.lerp(start, end, fractions_of(steps, start)))


def slerp(start: Tensor, end: Tensor, steps: int | Tensor, project: Projection) -> Tensor:
    """Interpolate like ``lerp``, on great arcs between the directions; lengths change linearly.

    After Shoemake, *Animating Rotation with Quaternion Curves* (1985). Between parallel codes the path is straight.
    """
    line, fractions = lerp(start, end, steps, identity), fractions_of(steps, start)
    lengths = [torch.linalg.vector_norm(code, dim=-1, keepdim=True) for code in (start, end)]
    tiny = torch.finfo(start.dtype).tiny
    first, last = start / lengths[0].clamp(min=tiny), end / lengths[1].clamp(min=tiny)
    angle = (first * last).sum(-1, keepdim=True).clamp(-1, 1).acos()
    arc = (torch.sin((1 - fractions) * angle) * first + torch.sin(fractions * angle) * last) / angle.sin()
    parallel = (angle.sin() < 1e-6) | (lengths[0] == 0) | (lengths[1] == 0)
    return project(torch.where(parallel, line, arc * torch.lerp(lengths[0], lengths[1], fractions)))


INTERPOLATIONS: dict[str, Interpolation] = {"line": lerp, "arc": slerp}


def between(start: Tensor, end: Tensor, fraction: Tensor | float) -> Tensor:
    """The codes (..., D) at a fraction of the line from ``start`` to ``end``, lengthened: lengths change linearly.

    Between near codes it approximates ``slerp``; the fraction (..., 1) may differ from pair to pair.
    """
    lengths = [torch.linalg.vector_norm(code, dim=-1, keepdim=True) for code in (start, end)]
    fraction = torch.as_tensor(fraction).to(start)
    line, length = torch.lerp(start, end, fraction), torch.lerp(lengths[0], lengths[1], fraction)
    shorter = torch.linalg.vector_norm(line, dim=-1, keepdim=True).clamp(min=torch.finfo(line.dtype).tiny)
    return line * (length / shorter)


def resample_path(path: Tensor, fractions: Tensor, evenness: float = 1.0) -> Tensor:
    """The codes (steps, ..., D) at fractions (steps,) of the path through codes (P, ..., D).

    With evenness 1 these are fractions of its length, with evenness 0 of the number P, and between them a mean of both.
    """
    tiny = torch.finfo(path.dtype).tiny
    lengths = torch.linalg.vector_norm(path.diff(dim=0), dim=-1).cumsum(0)
    lengths = torch.cat([torch.zeros_like(lengths[:1]), lengths / lengths[-1].clamp(min=tiny)])
    positions = torch.lerp(fractions_of(len(path), lengths[0]).expand_as(lengths), lengths, evenness)
    targets = fractions_of(fractions, lengths[0]).expand(-1, *lengths.shape[1:])
    last = torch.searchsorted(*(rows.movedim(0, -1).contiguous() for rows in (positions, targets))).movedim(-1, 0)
    piece = last.clamp(1, len(path) - 1) - 1
    part = (targets - positions.gather(0, piece)) / positions.diff(dim=0).gather(0, piece).clamp(min=tiny)
    first, second = (path.gather(0, (piece + n)[..., None].expand(*piece.shape, path.shape[-1])) for n in (0, 1))
    return between(first, second, part.clamp(0, 1)[..., None])


def mix(places: Tensor, weights: Sequence[float], straight: bool = True) -> Tensor:
    """Mix places (M, D) by weights into one, (D,): on lines their weighted mean, else one arc after another."""
    check_weights(weights, len(places))
    mixed, total = places[0], weights[0]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        total += weight
        if weight:
            (mixed,) = (lerp if straight else slerp)(mixed, place, torch.tensor([weight / total]), identity)
    return mixed


def check_weights(weights: Sequence[float], num: int) -> None:
    """Raise InputError unless there are ``num`` weights, none negative and one above zero."""
    text = " ".join(map(str, weights))
    if len(weights) != num:
        raise InputError("weights", text, f"are {len(weights)} for {num} images. Give one for each.")
    if not (min(weights) >= 0 and 0 < sum(weights) <= 1e6):
        raise InputError("weights", text, "must be from 0 to 1e6. Give at least one above 0.")


def principal_axes(codes: Tensor, num: int) -> Tensor:
    """The first principal axes (num, D) of codes (N, D), each as long as the standard deviation along it.

    An axis' largest coordinate is positive.

    Raises:
        InputError: for more axes than dimensions, or fewer than one.
    """
    if not 1 <= num <= codes.shape[1]:
        raise InputError("axes", num, f"codes have {codes.shape[1]} dimensions. Give 1 to {codes.shape[1]}.")
    variances, axes = torch.linalg.eigh(codes.detach().cpu().double().T.cov())
    axes = (axes * variances.clamp(min=0).sqrt()).T.flip(0)[:num]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return (axes * largest.sign()).to(codes)


def walk(origin: Tensor, axis: Tensor, steps: int, reach: float, project: Projection) -> Tensor:
    """Walk from ``origin - reach * axis`` to ``origin + reach * axis``: projected codes (steps, D).

    Raises:
        InputError: for fewer than two steps, or a reach out of range.
    """
    check_at_least("steps", steps, 2)
    if not 0 < reach <= MAX_AMOUNT:
        remedy = f"must be more than 0 standard deviations, and at most {MAX_AMOUNT}. Give 3 to reach nearly all codes."
        raise InputError("reach", reach, remedy)
    return project(origin + torch.linspace(-reach, reach, steps).to(origin)[:, None] * axis)


def gradient_magnitude(images: Tensor) -> Tensor:
    """The sharpness (B,) of images (B, C, H, W): the mean length of the gradient of their pixels."""
    down, right = images.diff(dim=2)[..., :-1], images.diff(dim=3)[..., :-1, :]
    return (down**2 + right**2).sqrt().flatten(1).mean(1)


def fractions_of(steps: int | Tensor, like: Tensor) -> Tensor:
    """Fractions of a path, (steps, 1, ...) to broadcast with ``like`` (...): evenly from 0 to 1, or as passed."""
    fractions = steps if isinstance(steps, Tensor) else torch.linspace(0, 1, steps)
    return fractions.to(like).view(-1, *[1] * like.dim())
