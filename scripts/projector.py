"""Puts codes and their images into TensorBoard's embedding projector; see glo_lightning/commands/projector.py."""

from glo_lightning.__main__ import main

if __name__ == "__main__":
    main("projector")
