"""Exports a run to hand over; see glo_lightning/commands/export.py."""

from glo_lightning.__main__ import main

if __name__ == "__main__":
    main("export")
