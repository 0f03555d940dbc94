"""Exports a run to hand over: glo export RUN OUTPUT [--half] [--push user/repo]

OUTPUT gets the generator and the codes as safetensors, config.json, recipe.yaml, the flow, and a model card with
pictures, README.md. GLO.from_pretrained(OUTPUT) loads it, and every command takes OUTPUT as RUN. --push also uploads it
to the Hugging Face Hub (pip install -e '.[hub]'), as a private repository unless --public.
"""

import logging
import sys

from glo_lightning.errors import InputError, OneLineParser
from glo_lightning.explore.export import check_push, export_run, push_export
from glo_lightning.streams import streams_may_close


@streams_may_close()
def main(arguments: list[str]) -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("run", metavar="RUN", help="a run folder, or a checkpoint in it")
    parser.add_argument("output", metavar="OUTPUT", help="a folder that does not exist")
    parser.add_argument("--half", action="store_true", help="the generator in half precision: half the size")
    parser.add_argument("--push", metavar="user/repo", help="repository on the Hugging Face Hub to upload to")
    parser.add_argument("--public", action="store_true", help="everybody may see a new repository")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        if options.push:
            check_push(options.push)
        export_run(options.run, options.output, options.half)
        print(f"wrote {options.output}; complete its README.md where it asks for it")
        if options.push:
            print(push_export(options.output, options.push, private=not options.public))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from error
