"""Measures of a learned space: do the ways between codes stay among the images, and what do the codes tell of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glo_lightning.data.attributes import Attributes
from glo_lightning.encoding import Generate
from glo_lightning.explore.metrics import extract, frechet, generate
from glo_lightning.explore.paths import Way
from glo_lightning.images import to_uint8
from glo_lightning.latents import Projection

STEPS = 32  # of a way whose evenness is measured
EVEN_PAIRS = 128  # whose every step is looked at


def random_pairs(num_codes: int, num: int) -> tuple[Tensor, Tensor]:
    """The rows of ``num`` pairs of different codes, the same ones at each call: (num,) and (num,)."""
    random = torch.Generator().manual_seed(0)
    first = torch.randint(num_codes, (num,), generator=random)
    return first, (first + torch.randint(1, num_codes, (num,), generator=random)) % num_codes


@torch.no_grad()
def way_metrics(
    ways: Mapping[str, Way],
    generator: Generate,
    codes: Tensor,
    project: Projection,
    images: Tensor,
    features: nn.Module,
    num: int = 4096,
) -> dict[str, dict[str, float]]:
    """What lies between random pairs of training images, by each way, by fading pixels over, by the nearest code.

    ``frechet_25``, ``_50`` and ``_75`` are Frechet distances to the training images at a quarter, half and three
    quarters of the way; ``largest_step`` of 32 is over the mean step, and ``length`` over the arc's, both in feature
    space; ``off_middle`` is the mean of the larger share that half-way has of its distances to both ends, 0.5 at best;
    ``nearest`` is the median distance from half-way to the nearest training image. ``fade`` mixes the pixels of the two
    images, ``snap`` decodes the training code that is nearest to the line.

    Args:
        ways: by name, ``arc`` among them.
        generator: in eval mode.
        codes: (N, D), of the training images.
        project: of the codes.
        images: the training images (N, C, H, W), uint8.
        features: see ``load_features``.
        num: of pairs.
    """
    real = extract(images, features)
    first, second = random_pairs(len(codes), num)
    few = slice(min(EVEN_PAIRS, num))
    results: dict[str, dict[str, float]] = {}

    def measure(name: str, between: list[Tensor], path: Tensor | None = None) -> None:
        """``between``: features at the three places; ``path``: of the first pairs, of every step (STEPS + 1, P, F)."""
        places = zip(("frechet_25", "frechet_50", "frechet_75"), between, strict=True)
        found = {key: frechet(some, real) for key, some in places}
        ends = [(between[1] - real[rows]).norm(dim=1) for rows in (first, second)]
        found["off_middle"] = float((torch.maximum(*ends) / (ends[0] + ends[1])).mean())
        found["nearest"] = nearest_distance(between[1], real)
        if path is not None:
            steps = path.diff(dim=0).norm(dim=2)
            found["largest_step"] = float((steps.max(0).values / steps.mean(0)).mean())
            found["length"] = float(steps.sum(0).mean())
        results[name] = found

    for name, way in ways.items():
        between = [
            extract(to_uint8(generate(generator, some)).cpu(), features)
            for some in way(codes[first], codes[second], 5, project)[1:4]
        ]
        path = way(codes[first[few]], codes[second[few]], STEPS + 1, project)
        seen = extract(to_uint8(generate(generator, path.flatten(0, 1))).cpu(), features)
        measure(name, between, seen.view(STEPS + 1, -1, seen.shape[1]))
    arc = results["arc"]["length"] or math.nan  # where all images look the same
    for name in ways:
        results[name]["length"] /= arc
    fractions = (0.25, 0.5, 0.75)
    fade = [torch.lerp(images[first].float(), images[second].float(), at).round().byte() for at in fractions]
    measure("fade", [extract(some, features) for some in fade])
    lines = [project(torch.lerp(codes[first], codes[second], at)) for at in fractions]
    snapped = [codes[torch.cat([torch.cdist(some, codes).argmin(1) for some in line.split(512)])] for line in lines]
    measure("snap", [extract(to_uint8(generate(generator, some)).cpu(), features) for some in snapped])
    return results


def nearest_distance(points: Tensor, references: Tensor) -> float:
    """The median distance of points (P, F) to the nearest of the references (R, F)."""
    return float(nearest_distances(points, references).median())


def nearest_distances(points: Tensor, references: Tensor) -> Tensor:
    """The distance (P,) of each point (P, F) to the nearest of the references (R, F)."""
    return torch.cat([torch.cdist(some, references).min(1).values for some in points.split(512)])


def probe(
    training: Tensor, held_out: Tensor, attributes: Attributes, rows: Tensor, neighbours: int = 0
) -> dict[str, float]:
    """How many of the held-out images' attributes a classifier tells from their codes, fitted on training codes.

    It is scikit-learn's logistic regression, or the vote of the nearest neighbours, of codes that are scaled to equal
    variances. Images that are not labelled are left out.

    Args:
        training: (N, F), of the first N images; codes or any other numbers.
        held_out: (M, F).
        attributes: of all images.
        rows: (M,), of the held-out images in ``attributes``.
        neighbours: how many vote, at most; 0 takes the regression.

    Returns:
        The accuracy for each attribute; one that has a single value among the training images, or is known of no
        held-out one, is left out.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(training.numpy())
    known, asked = scaler.transform(training.numpy()), scaler.transform(held_out.numpy())
    found = {}
    for number, name in enumerate(attributes.values):
        values, truth = attributes.table[: len(training), number].numpy(), attributes.table[rows, number].numpy()
        some, wanted = values >= 0, truth >= 0
        if len(set(values[some].tolist())) > 1 and wanted.any():
            votes = min(neighbours, int(some.sum()))
            kind = KNeighborsClassifier(votes) if votes else LogisticRegression(max_iter=300)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # after 300 steps it is near enough
                told = kind.fit(known[some], values[some]).predict(asked[wanted])
            found[name] = float((told == truth[wanted]).mean())
    return found
