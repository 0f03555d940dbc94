"""Finds codes for new images; see glo_lightning/commands/encode.py."""

from glo_lightning.__main__ import main

if __name__ == "__main__":
    main("encode")
