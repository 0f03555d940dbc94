"""Trains GLO: python scripts/train.py [--config configs/d100.yaml] [--data.root DIR] [--accelerator gpu] ..."""

from pathlib import Path

from glo_lightning.training.cli import main

if __name__ == "__main__":
    main(default_config=Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml")
