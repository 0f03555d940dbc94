"""Samples of a run: codes from a prior, and a picture of them beside their nearest training images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from glo_lightning.explore.flows import check_flow, parse_conditions
from glo_lightning.explore.neighbours import nearest_by_pixels, nearest_codes
from glo_lightning.explore.pictures import picture
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.priors.flow import enough_codes
from glo_lightning.priors.prior import PRIORS, check_conditions, check_draw, make_prior, sample_codes

MAX_SHOWN = 64  # samples in a picture
PER_ROW = 4


def draw_codes(
    run: TrainedRun,
    num: int = 24,
    prior: str | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    condition: Sequence[str] = (),
    guidance: float | None = None,
    n_components: int | None = None,
) -> tuple[Tensor, str]:
    """Draw codes (num, D) from a prior that is fitted to the trained codes; return them and a title.

    By default the prior is a flow where there are enough codes or labels are asked for, else a mixture. See
    ``InteractiveRun.sample`` for the arguments; ``n_components`` is the number of a mixture's components.
    """
    check_draw(num, seed, temperature, guidance)
    conditions = parse_conditions(run, condition)
    conditional = {"condition": " ".join(condition) or None, "guidance": guidance}
    # to name a flow is of no use where there are too few codes for one
    is_flow = prior in (None, "flow") or (prior in PRIORS and not enough_codes(len(run.rows)))
    needs_flow = [key for key, value in conditional.items() if value is not None and is_flow]
    for key in needs_flow:
        check_flow(run, key, conditional[key])
    name = prior or ("flow" if needs_flow else run.default_prior)
    chosen = make_prior(name, n_components)
    check_conditions(chosen, conditional["condition"], guidance)
    settings = (seed, temperature, conditions, guidance)
    codes = sample_codes(run.fit_prior(chosen), run.trained_codes, num, run.model.project, *settings)
    labels = f", with {' '.join(condition)}" if condition else ""
    return codes, f"New images, drawn from the {name} prior{labels}"


def samples_picture(run: TrainedRun, codes: Tensor, images: Tensor, title: str, heading: str = "sample") -> Image.Image:
    """Lay out the first 64 samples, each beside the training images nearest to it where the run has these.

    The codes are (M, D), their images (M, C, H, W) in [-1, 1]; ``heading`` stands above each sample.
    """
    codes, images = codes[:MAX_SHOWN], images[:MAX_SHOWN]
    cells: list[tuple[Tensor | str, ...]] = [(image,) for image in images]
    headings = [heading]
    if run.data_or_none is not None:
        rows_by = (nearest_codes(run, codes)[:, 0], nearest_by_pixels(run, images))
        near = (run.images(rows.tolist()) for rows in rows_by)
        cells = [(*triple, "") for triple in zip(images, *near, strict=True)]
        headings = [*headings, "nearest\nby code", "nearest\nby pixels", "   "]
        title += ", and the training images most like them"
    rows = [list(itertools.chain(*cells[first : first + PER_ROW])) for first in range(0, len(cells), PER_ROW)]
    return picture(rows, title, headings * len(cells[:PER_ROW]))
