"""Exports a run as safetensors and JSON: python scripts/export.py RUN OUTPUT [--checkpoint best]

glo_lightning.export.load_export(OUTPUT) loads it again.
"""

import argparse
import sys

from glo_lightning.errors import InputError
from glo_lightning.export import export_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder")
    parser.add_argument("output", help="a folder that does not exist")
    parser.add_argument("--checkpoint", choices=("last", "previous", "best"), default="last")
    arguments = parser.parse_args()
    try:
        export_run(arguments.run, arguments.output, arguments.checkpoint)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
