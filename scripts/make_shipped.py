"""Makes the run that ships as `faces`: python scripts/make_shipped.py OUTPUT [--run runs/faces]

It trains configs/shipped.yaml on the shipped faces, fits a small flow to the codes, and exports both in half precision.
"""

from __future__ import annotations

from pathlib import Path

from glo_lightning.errors import OneLineParser
from glo_lightning.explore.export import export_run
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.priors.flow import Flow
from glo_lightning.training.cli import main as train

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "shipped.yaml"
WIDTH = 128  # of the flow's layers; the usual 384 would be larger than the rest


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("output", type=Path, help="a folder that does not exist")
    parser.add_argument("--run", type=Path, default=Path("runs/faces"), help="the run, which is trained if need be")
    options = parser.parse_args()
    if not (options.run / "checkpoints" / "last.ckpt").exists():
        train(RECIPE, ["--accelerator=cpu", f"--output={options.run}"])
    TrainedRun(options.run, "cpu").fit_prior(Flow(width=WIDTH))
    export_run(options.run, options.output, half=True)


if __name__ == "__main__":
    main()
