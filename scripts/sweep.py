"""Searches hyperparameters, or repeats a recipe with several seeds; see glo_lightning/commands/sweep.py."""

from glo_lightning.__main__ import main

if __name__ == "__main__":
    main("sweep")
