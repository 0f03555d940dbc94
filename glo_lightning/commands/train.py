"""Trains GLO: glo train [--config configs/d100.yaml] [--data.root DIR] [--accelerator gpu] ..."""

from pathlib import Path

from glo_lightning.training.cli import main as run_command_line

QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"


def run(arguments: list[str]) -> None:
    run_command_line(QUICKSTART, arguments)
