"""Walks along the principal axes of the codes; see glo_lightning/commands/walk.py."""

from glo_lightning.__main__ import main

if __name__ == "__main__":
    main("walk")
