"""Trains GLO; see glo_lightning/commands/train.py."""

from glo_lightning.__main__ import main

if __name__ == "__main__":
    main("train")
