"""Opens the learned space in the browser: glo browse RUN [--port 8000] [--host 127.0.0.1] [--no_open]

or writes it as a page that needs no server: glo browse RUN --export FILE.html

The page has a map of the training images, mixes, sliders along principal axes and labels, new samples, and images to
fill in; each picture has its command beside it. It is served to this machine alone, unless --host says otherwise, and
contacts no other. Codes are saved in codes/ of the run folder. Ctrl-C ends the server. The exported page has map,
mixes, sliders and, where a flow was fitted, samples of a small model, computed in the reader's browser. To write it
takes npm install --no-save --no-package-lock onnxruntime-web@1.30.0 in the current folder.
"""

from __future__ import annotations

import time

BEGAN = time.monotonic()
import torch  # noqa: E402, F401

IMPORTED = time.monotonic()

import argparse  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

from glo_lightning.browser.address import address_of, is_loopback, listen  # noqa: E402
from glo_lightning.browser.offline import export_page, require_offline  # noqa: E402
from glo_lightning.browser.server import require_packages, serve  # noqa: E402
from glo_lightning.browser.session import Session  # noqa: E402
from glo_lightning.commands.parser import refuse_unused  # noqa: E402
from glo_lightning.explore.interactive import load_run  # noqa: E402
from glo_lightning.explore.outputs import check_outputs, inputs_of  # noqa: E402


def run(options: argparse.Namespace) -> None:
    (export if options.export is not None else browse)(options)


def export(options: argparse.Namespace) -> None:
    refuse_unused(options, "with --export, which serves no page", "host", "port", "no_open")
    require_offline()
    check_outputs({"export": options.export}, options.overwrite, inputs_of(options, ["export"]))
    export_page(make_session(options), options.export)


def make_session(options: argparse.Namespace) -> Session:
    run = load_run(options.run, options.accelerator, options.root)
    flags = [] if options.root is None else ["--data.root", str(options.root)]
    flags += [] if options.accelerator == "auto" else ["--accelerator", options.accelerator]
    return Session(run, options.run, flags)


def browse(options: argparse.Namespace) -> None:
    refuse_unused(options, "without --export", "overwrite")
    require_packages("browse", "starlette", "uvicorn")
    with listen(options.host, options.port) as listening:
        session = make_session(options)
        ready = time.monotonic() - IMPORTED
        print(f"{address_of(listening)}  (torch imported in {IMPORTED - BEGAN:.1f} s, ready {ready:.1f} s later)")
        if not is_loopback(options.host):
            print("whoever reaches this machine can use it; without --host only this machine can")
        print("Ctrl-C ends it", flush=True)
        try:
            serve(session, listening, options.host, not options.no_open)
        except KeyboardInterrupt:
            sys.stderr.write("\nstopped\n")
            sys.stdout.flush()
            os._exit(130)  # Python would wait for the threads that compute, which may take minutes
