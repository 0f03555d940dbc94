"""Ways through the learned space: interpolation, walks, arithmetic, nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from glo_lightning.errors import InputError, check_at_least
from glo_lightning.latents import Projection, unconstrained

# (start, end, steps or fractions, project) -> the codes from start to end, both included
Way = Callable[[Tensor, Tensor, int | Tensor, Projection], Tensor]


def lerp(start: Tensor, end: Tensor, steps: int | Tensor, project: Projection) -> Tensor:
    """The codes (steps, ..., D) on straight lines from ``start`` to ``end`` (..., D), both included, projected.

    ``steps`` may be the fractions of the way themselves, (steps,).

    Raises:
        InputError: for fewer than two steps.
    """
    if not isinstance(steps, Tensor):
        check_at_least("steps", steps, 2)
    return project(torch.lerp(start, end, fractions_of(steps, start)))


def slerp(start: Tensor, end: Tensor, steps: int | Tensor, project: Projection) -> Tensor:
    """As ``lerp``, on the great arcs between the directions; the length goes evenly from one to the other.

    After Shoemake, *Animating Rotation with Quaternion Curves* (1985). Between parallel codes it is the straight line.

    Raises:
        InputError: for fewer than two steps.
    """
    line, fractions = lerp(start, end, steps, unconstrained), fractions_of(steps, start)
    lengths = [torch.linalg.vector_norm(code, dim=-1, keepdim=True) for code in (start, end)]
    tiny = torch.finfo(start.dtype).tiny
    first, last = start / lengths[0].clamp(min=tiny), end / lengths[1].clamp(min=tiny)
    angle = (first * last).sum(-1, keepdim=True).clamp(-1, 1).acos()
    arc = (torch.sin((1 - fractions) * angle) * first + torch.sin(fractions * angle) * last) / angle.sin()
    parallel = (angle.sin() < 1e-6) | (lengths[0] == 0) | (lengths[1] == 0)
    return project(torch.where(parallel, line, arc * torch.lerp(lengths[0], lengths[1], fractions)))


WAYS: dict[str, Way] = {"line": lerp, "arc": slerp}


def between(start: Tensor, end: Tensor, fraction: Tensor | float) -> Tensor:
    """The codes (..., D) in the directions of those on the line from ``start`` to ``end``, but no shorter than these.

    The length goes evenly from one to the other. Of near codes it is what ``slerp`` gives, with a fraction (..., 1) for
    each pair.
    """
    lengths = [torch.linalg.vector_norm(code, dim=-1, keepdim=True) for code in (start, end)]
    fraction = torch.as_tensor(fraction).to(start)
    line, length = torch.lerp(start, end, fraction), torch.lerp(lengths[0], lengths[1], fraction)
    shorter = torch.linalg.vector_norm(line, dim=-1, keepdim=True).clamp(min=torch.finfo(line.dtype).tiny)
    return line * (length / shorter)


def along(path: Tensor, fractions: Tensor, evenness: float = 1.0) -> Tensor:
    """The codes (steps, ..., D) at fractions (steps,) of the way through codes (P, ..., D).

    With an evenness of 1 these are fractions of its length, with 0 as many of the P codes lie before each; and what
    lies between, between.
    """
    tiny = torch.finfo(path.dtype).tiny
    lengths = torch.linalg.vector_norm(path.diff(dim=0), dim=-1).cumsum(0)
    lengths = torch.cat([torch.zeros_like(lengths[:1]), lengths / lengths[-1].clamp(min=tiny)])
    reached = torch.lerp(fractions_of(len(path), lengths[0]).expand_as(lengths), lengths, evenness)
    wanted = fractions_of(fractions, lengths[0]).expand(-1, *lengths.shape[1:])
    last = torch.searchsorted(*(some.movedim(0, -1).contiguous() for some in (reached, wanted))).movedim(-1, 0)
    piece = last.clamp(1, len(path) - 1) - 1
    part = (wanted - reached.gather(0, piece)) / reached.diff(dim=0).gather(0, piece).clamp(min=tiny)
    first, second = (path.gather(0, (piece + n)[..., None].expand(*piece.shape, path.shape[-1])) for n in (0, 1))
    return between(first, second, part.clamp(0, 1)[..., None])


def mix(places: Tensor, weights: Sequence[float], straight: bool = True) -> Tensor:
    """One place (D,) among places (M, D), the nearer to each the greater its weight: on lines, their weighted mean.

    Each place in turn draws the mix of those before it towards itself, on the line or on the arc.

    Raises:
        InputError: see ``check_weights``.
    """
    check_weights(weights, len(places))
    mixed, total = places[0], weights[0]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        total += weight
        if weight:
            (mixed,) = (lerp if straight else slerp)(mixed, place, torch.tensor([weight / total]), unconstrained)
    return mixed


def check_weights(weights: Sequence[float], num: int) -> None:
    """Refuses another number of weights than ``num``, a negative one, or none above zero.

    Raises:
        InputError: for these.
    """
    text = " ".join(map(str, weights))
    if len(weights) != num:
        raise InputError("weights", text, f"are {len(weights)} for {num} images; give one for each")
    if not (min(weights) >= 0 and 0 < sum(weights) < float("inf")):
        raise InputError("weights", text, "must be 0 or more, and one of them above 0")


def principal_axes(codes: Tensor, num: int) -> Tensor:
    """The first principal axes of the codes (N, D), each as long as the codes' standard deviation along it: (num, D).

    The sign is chosen so that the largest coordinate of an axis is positive.

    Raises:
        InputError: for more axes than dimensions, or fewer than one.
    """
    if not 1 <= num <= codes.shape[1]:
        raise InputError("axes", num, f"codes of {codes.shape[1]} dimensions have 1 to {codes.shape[1]} axes")
    variances, axes = torch.linalg.eigh(codes.detach().cpu().double().T.cov())
    axes = (axes * variances.clamp(min=0).sqrt()).T.flip(0)[:num]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return (axes * largest.sign()).to(codes)


def walk(origin: Tensor, axis: Tensor, steps: int, reach: float, project: Projection) -> Tensor:
    """The codes (steps, D) from ``origin - reach * axis`` to ``origin + reach * axis``, projected.

    Raises:
        InputError: for fewer than two steps, or a reach that is not positive.
    """
    check_at_least("steps", steps, 2)
    if not 0 < reach < float("inf"):
        raise InputError("reach", reach, "must be more than 0 standard deviations; 3 reaches nearly all codes")
    return project(origin + torch.linspace(-reach, reach, steps).to(origin)[:, None] * axis)


def arithmetic(a: Tensor, b: Tensor, c: Tensor, strength: float = 1.0) -> Tensor:
    """The place ``strength * (a - b) + c`` of places (D,), not projected."""
    return strength * (a - b) + c


def nearest(queries: Tensor, references: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The index of the nearest reference to each query by Euclidean distance, (Q,), int64 on the CPU.

    Codes and pixels are compared alike: ``nearest(codes, [(table, torch.arange(len(table)))])`` and
    ``nearest(images, data.sequential_dataloader())``.

    Args:
        queries: (Q, ...), any number of features.
        references: batches of (references (b, ...), index (b,)), as many as do not fit into memory at once.
    """
    queries = queries.detach().flatten(1).float()
    closest = torch.full((len(queries),), torch.inf)
    found = torch.full((len(queries),), -1)
    for batch, index in references:
        rows = batch.detach().flatten(1).to(queries)
        # the difference of squares that is faster loses small distances of large vectors
        distances, positions = torch.cdist(queries, rows, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        closer = distances.cpu() < closest
        closest[closer] = distances.cpu()[closer]
        found[closer] = index.cpu()[positions.cpu()[closer]]
    return found


def gradient_magnitude(images: Tensor) -> Tensor:
    """How sharp images (B, C, H, W) are: the mean length of the gradient of their pixels, (B,)."""
    down, right = images.diff(dim=2)[..., :-1], images.diff(dim=3)[..., :-1, :]
    return (down**2 + right**2).sqrt().flatten(1).mean(1)


def fractions_of(steps: int | Tensor, like: Tensor) -> Tensor:
    """Of a way in so many steps, (steps, 1, ...), to go with ``like`` (...); or those given, (steps,)."""
    fractions = steps if isinstance(steps, Tensor) else torch.linspace(0, 1, steps)
    return fractions.to(like).view(-1, *[1] * like.dim())
