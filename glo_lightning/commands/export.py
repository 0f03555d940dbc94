"""Exports a run to hand over: glo export RUN OUTPUT [--half] [--push user/repo]

OUTPUT gets the generator and the codes as safetensors, config.json, recipe.yaml, the flow, and a model card with
pictures, README.md. GLO.from_pretrained(OUTPUT) loads it, and every command takes OUTPUT as RUN. --push also uploads it
to the Hugging Face Hub (pip install -e '.[hub]'), as a private repository unless --public. If that fails, the same
command uploads the OUTPUT that is there.
"""

import argparse

from glo_lightning.explore.export import check_push, export_run, push_export


def run(options: argparse.Namespace) -> None:
    if options.push:
        check_push(options.push)
    written = export_run(options.run, options.output, options.half, reuse=bool(options.push))
    what = "wrote {}; complete its README.md where it asks for it" if written else "{} is this export already"
    print(what.format(options.output))
    if options.push:
        print(push_export(options.output, options.push, private=not options.public))
