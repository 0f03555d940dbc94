"""Interpolates between images; see glo_lightning/commands/interpolate.py."""

from glo_lightning.__main__ import main

if __name__ == "__main__":
    main("interpolate")
