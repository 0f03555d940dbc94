"""Draws new images; see glo_lightning/commands/sample.py."""

from glo_lightning.__main__ import main

if __name__ == "__main__":
    main("sample")
