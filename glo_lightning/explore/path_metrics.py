"""Metrics of paths between codes: do their images look like training images, and do they change evenly?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from glo_lightning.encoding import Generate
from glo_lightning.errors import InputError
from glo_lightning.explore.codes import generate
from glo_lightning.explore.features import extract
from glo_lightning.explore.metrics import frechet
from glo_lightning.explore.paths import Interpolation
from glo_lightning.images import to_uint8
from glo_lightning.latents import Projection

STEPS = 32  # of a path whose evenness is measured
EVEN_PAIRS = 128  # for which it is measured
FRACTIONS = {"frechet_25": 0.25, "frechet_50": 0.5, "frechet_75": 0.75}


def random_pairs(num_codes: int, num: int) -> tuple[Tensor, Tensor]:
    """Draw ``num`` pairs of different rows, (num,) and (num,); the same ones in each call.

    Raises:
        InputError: for fewer than two rows.
    """
    if num_codes < 2:
        raise InputError("run", f"{num_codes} images", "has no pairs of images. Give a run of two or more.")
    random = torch.Generator().manual_seed(0)
    first = torch.randint(num_codes, (num,), generator=random)
    return first, (first + torch.randint(1, num_codes, (num,), generator=random)) % num_codes


@torch.no_grad()
def interpolation_metrics(
    paths: Mapping[str, Interpolation],
    generator: Generate,
    codes: Tensor,
    project: Projection,
    images: Tensor,
    features: nn.Module,
    num: int = 4096,
) -> dict[str, dict[str, float]]:
    """Measure paths between random pairs of training images, in feature space.

    - ``frechet_25``, ``_50``, ``_75``: Frechet distances to the training images at these fractions of a path.
    - ``asymmetry``: how much nearer half-way is to one end: the larger distance over the sum of both, 0.5 at best.
    - ``nearest``: the median distance from half-way to the nearest training image.
    - ``largest_step``: the largest of 32 steps over their mean. ``length``: over the arc's.

    Two more rows compare: ``fade`` mixes the pixels, ``nearest_code`` decodes the training code nearest to the line.

    Args:
        paths: by name, ``arc`` among them.
        generator: in eval mode.
        codes, images: of the training, (N, D) and (N, C, H, W), uint8.
        project, features, num: the codes' projection, see ``load_features``, and the number of pairs.
    """

    def see(codes: Tensor) -> Tensor:
        return extract(to_uint8(generate(generator, codes)).cpu(), features)

    real = extract(images, features)
    first, second = random_pairs(len(codes), num)
    ends = (real[first], real[second])
    subset = slice(min(EVEN_PAIRS, num))
    results: dict[str, dict[str, float]] = {}
    for name, path in paths.items():
        between = [see(places) for places in path(codes[first], codes[second], 5, project)[1:4]]
        results[name] = _compare(between, ends, real)
        places = path(codes[first[subset]], codes[second[subset]], STEPS + 1, project)
        lengths = see(places.flatten(0, 1)).view(*places.shape[:2], -1).diff(dim=0).norm(dim=2)
        results[name]["largest_step"] = float((lengths.max(0).values / lengths.mean(0)).mean())
        results[name]["length"] = float(lengths.sum(0).mean())
    arc = results["arc"]["length"] or math.nan  # where all images look the same
    for name in paths:
        results[name]["length"] /= arc
    fades = (torch.lerp(images[first].float(), images[second].float(), at).round().byte() for at in FRACTIONS.values())
    results["fade"] = _compare([extract(fade, features) for fade in fades], ends, real)
    lines = (project(torch.lerp(codes[first], codes[second], at)) for at in FRACTIONS.values())
    rows = (torch.cat([torch.cdist(batch, codes).argmin(1) for batch in line.split(512)]) for line in lines)
    results["nearest_code"] = _compare([see(codes[nearest]) for nearest in rows], ends, real)
    return results


def _compare(between: Sequence[Tensor], ends: tuple[Tensor, Tensor], real: Tensor) -> dict[str, float]:
    """Compare features at the three fractions of paths with those of the ends and of all real images."""
    measured = {key: frechet(features, real) for key, features in zip(FRACTIONS, between, strict=True)}
    distances = [(between[1] - end).norm(dim=1) for end in ends]
    measured["asymmetry"] = float((torch.maximum(*distances) / (distances[0] + distances[1])).mean())
    measured["nearest"] = float(nearest_distances(between[1], real).median())
    return measured


def nearest_distances(points: Tensor, references: Tensor) -> Tensor:
    """The distance (P,) of each point (P, F) to the nearest of the references (R, F)."""
    return torch.cat([torch.cdist(batch, references).min(1).values for batch in points.split(512)])
