"""Opens the learned space in the browser: python scripts/browse.py RUN [--port 8000] [--host 127.0.0.1] [--no_open]

or writes it as a page that needs no server: python scripts/browse.py RUN --export FILE.html

A page with a map of the training images, mixes of images, sliders along the codes' principal axes and attributes, new
samples, and images that are filled in. It is served on this machine alone, unless --host says otherwise, and asks
nothing of any other. Each picture has its command beside it. Codes are saved into codes/ of the run folder; Ctrl-C ends
it. The written page has map, mixes and sliders of a small model, computed by the browser that it is opened in.
"""

from __future__ import annotations

import time

BEGAN = time.monotonic()
import torch  # noqa: E402, F401

IMPORTED = time.monotonic()

import argparse  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from glo_lightning.browser.offline import export_page, require_offline  # noqa: E402
from glo_lightning.browser.server import address_of, is_loopback, listen, require_server, serve  # noqa: E402
from glo_lightning.browser.session import Explorer  # noqa: E402
from glo_lightning.explore.commands import CommandParser  # noqa: E402
from glo_lightning.explore.outputs import check_outputs, inputs_of  # noqa: E402
from glo_lightning.explore.trained_run import load_run  # noqa: E402


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="to listen on; 0.0.0.0 lets others in (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="to listen on (default: the first free one from 8000 on)")
    parser.add_argument("--no_open", action="store_true", help="does not open the browser")
    parser.add_argument("--export", type=Path, metavar="FILE.html", help="writes the page instead of serving it")
    parser.add_argument("--overwrite", action="store_true", help="replaces what is there")
    parser.call(lambda: start(parser.parse_args()))


def start(options: argparse.Namespace) -> None:
    if options.export is None:
        browse(options)
    else:
        require_offline()
        check_outputs({"export": options.export}, options.overwrite, inputs_of(options, ["export"]))
        export_page(explore(options), options.export)


def explore(options: argparse.Namespace) -> Explorer:
    trained = load_run(options.run, options.accelerator, options.root)
    flags = [] if options.root is None else ["--data.root", str(options.root)]
    flags += [] if options.accelerator == "auto" else ["--accelerator", options.accelerator]
    return Explorer(trained, options.run, flags)


def browse(options: argparse.Namespace) -> None:
    require_server()
    with listen(options.host, options.port) as listening:
        explorer = explore(options)
        ready = time.monotonic() - IMPORTED
        print(f"{address_of(listening)}  (torch imported in {IMPORTED - BEGAN:.1f} s, ready {ready:.1f} s later)")
        if not is_loopback(options.host):
            print("whoever reaches this machine can use it; without --host it is this machine alone")
        print("Ctrl-C ends it", flush=True)
        try:
            serve(explorer, listening, options.host, not options.no_open)
        except KeyboardInterrupt as stop:
            sys.stderr.write("\nstopped\n")
            raise SystemExit(130) from stop


if __name__ == "__main__":
    main()
