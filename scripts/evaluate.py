"""Measures a run on training images and on held-out ones; see glo_lightning/commands/evaluate.py."""

from glo_lightning.__main__ import main

if __name__ == "__main__":
    main("evaluate")
