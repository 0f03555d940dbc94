"""Opens the learned space in the browser; see glo_lightning/commands/browse.py."""

from glo_lightning.__main__ import main

if __name__ == "__main__":
    main("browse")
