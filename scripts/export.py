"""Exports a run as safetensors and JSON: python scripts/export.py RUN OUTPUT

glo_lightning.explore.export.load_export(OUTPUT) loads it again.
"""

import sys

from glo_lightning.errors import InputError, OneLineParser
from glo_lightning.explore.export import export_run
from glo_lightning.streams import streams_may_close


@streams_may_close()
def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("run", help="a run folder, or a checkpoint in it")
    parser.add_argument("output", help="a folder that does not exist")
    arguments = parser.parse_args()
    try:
        export_run(arguments.run, arguments.output)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
