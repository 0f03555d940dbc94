"""Adds and subtracts images; see glo_lightning/commands/arithmetic.py."""

from glo_lightning.__main__ import main

if __name__ == "__main__":
    main("arithmetic")
