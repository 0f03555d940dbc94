"""``glo NAME ...``, ``python -m glo_lightning NAME ...`` and ``python scripts/NAME.py ...``: the commands."""

import sys


def main(name: str | None = None) -> None:
    """Run the command of that name with the program's arguments; by default the first of these is the name."""
    try:
        from glo_lightning.commands.flags import run_command  # Ctrl-C ends the imports without a traceback, too

        run_command(name, sys.argv[1:])
    except KeyboardInterrupt as stop:
        sys.stderr.write("\nstopped; nothing was written\n")
        raise SystemExit(130) from stop


if __name__ == "__main__":
    main()
