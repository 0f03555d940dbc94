"""Turns images into an LMDB of LSUN's format; see glo_lightning/commands/build_lmdb.py."""

from glo_lightning.__main__ import main

if __name__ == "__main__":
    main("build_lmdb")
