"""``glo NAME ...``, ``python -m glo_lightning NAME ...`` and ``python scripts/NAME.py ...``: the commands."""

from __future__ import annotations

import sys

from glo_lightning.commands.flags import PARSERS
from glo_lightning.errors import did_you_mean

NAMES = sorted([*PARSERS, "train"])
HELP = f"glo COMMAND ...: {', '.join(NAMES)}. glo COMMAND --help describes one."


def main(name: str | None = None) -> None:
    """Run the command of that name with the program's arguments; by default the first of these is the name."""
    arguments = sys.argv[1:]
    if name is None:
        name, *arguments = arguments or ["--help"]
        if name in ("-h", "--help"):
            print(HELP)
            return
        if name not in NAMES:
            sys.stderr.write(f"{name}: there is no such command; {did_you_mean(name, NAMES)}\n")
            raise SystemExit(2)
    if name != "train":
        PARSERS[name]().call(arguments)
        return
    from glo_lightning.commands import train

    train.run(arguments)


if __name__ == "__main__":
    main()
