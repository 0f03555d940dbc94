"""Samples of a run that is finished, for its folder and its TensorBoard."""

from __future__ import annotations

import logging
from pathlib import Path

from glo_lightning.errors import InputError
from glo_lightning.explore.metrics import generate
from glo_lightning.explore.trained_run import Accelerator, load_run
from glo_lightning.images import to_unit
from glo_lightning.priors.prior import sample_codes

log = logging.getLogger(__name__)


def add_samples(run: Path, prior: str, accelerator: Accelerator, anew: bool = True, num_images: int = 64) -> None:
    """Fits a prior to the codes of a run's last checkpoint and shows samples: ``images/samples_<prior>.png``.

    In TensorBoard the picture is ``samples/<prior>``. A prior that these codes do not allow is a line in the log.

    Args:
        run: its folder.
        prior: see ``make_prior``.
        accelerator: where the images are generated.
        anew: whether a picture that is there already is drawn again.
        num_images: in the picture, eight in a row.
    """
    from torch.utils.tensorboard import SummaryWriter
    from torchvision.utils import make_grid, save_image

    name = prior.rpartition(".")[2]
    picture = run / "images" / f"samples_{name}.png"
    if picture.exists() and not anew:
        return
    trained = load_run(run, accelerator)
    table = trained.model.latents.weight
    try:
        codes = sample_codes(trained.prior(prior), table, num_images, trained.model.project)
    except InputError as error:
        log.info("no samples: %s", error)
        return
    grid = make_grid(to_unit(generate(trained.model, codes).cpu()), nrow=8)
    picture.parent.mkdir(exist_ok=True)
    save_image(grid, picture)
    with SummaryWriter(run) as writer:
        writer.add_image(f"samples/{name}", grid, max(trained.global_step - 1, 0))
    log.info("samples of the prior %s: %s", name, picture)
