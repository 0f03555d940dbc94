"""Times what users run, a GLO trained by Lightning with all callbacks of scripts/train.py, against two plain loops.

    python scripts/benchmark.py --root DIR [--accelerator gpu]         an LMDB; the shipped images without --root
    python scripts/benchmark.py --synthetic [--accelerator gpu]        needs neither images nor lmdb nor jsonargparse
    python scripts/benchmark.py --quickstart [--accelerator gpu] [flags of scripts/train.py]

All write benchmark.json (--json): with --accelerator gpu, please send it to us.

"minimal" does what minimal_glo's program did: workers that decode every image in every epoch with Pillow and
torchvision's transforms, two Laplacian pyramids whose kernel is made anew at each call, codes in NumPy that are copied
to the device and back, the loss read in every step, float32. "careful" is what somebody who knows PyTorch writes by
hand: decoded images and codes on the device, one pyramid, channels last, autocast, the loss read every 50 steps.

images/s are those of the steps after a warm-up, between two epochs' ends as train/images_per_second is; what comes
between two epochs, pictures and checkpoints, is in images_per_second_with_epoch_ends. The loops take turns in each
round, and the best round counts. A wait is an operation for which the host waits for the device.

--quickstart trains configs/quickstart.yaml: seconds to its loss, epoch by epoch, without the prior; the ten operations
that take longest, on a GPU also compiled; waits a step; two runs with --deterministic true.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from benchmarking.data import Images, Records, SyntheticSource, make_source
from benchmarking.parts import measure_encoding, measure_floor, measure_pca, measure_step, measure_update
from benchmarking.training import PRECISIONS, measure_training, measure_waits

from glo_lightning.errors import InputError, OneLineParser, check_at_least
from glo_lightning.explore.outputs import check_outputs
from glo_lightning.files import write_json
from glo_lightning.runs.environment import describe_environment
from glo_lightning.streams import streams_may_close

# What is measured where it is not said: about five minutes on a GPU.
DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"batch_size": [128], "precision": ["bf16-mixed"], "batches": 60, "rounds": 3, "encoded": 16},
    "gpu": {"batch_size": [128, 1024], "precision": [*PRECISIONS], "batches": 500, "rounds": 1, "encoded": 1000},
}
SYNTHETIC_ROWS = {"cpu": 4_096, "gpu": 100_352}
WARM = {"cpu": 3, "gpu": 20}


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The options, and what --quickstart hands on to scripts/train.py.

    Raises:
        InputError: for a value out of range, and for a device that is not here.
    """
    parser = OneLineParser(__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--root", help="an LMDB or LSUN folder; the shipped images if not given")
    what.add_argument("--synthetic", action="store_true", help="made images of LSUN's size")
    what.add_argument("--quickstart", action="store_true", help="configs/quickstart.yaml on the shipped images")
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--json", type=Path, default="benchmark.json", help="the file to write (default: %(default)s)")
    parser.add_argument("--rows", type=int, help="images to use, at most; synthetic ones: 100,352 on a GPU, else 4,096")
    parser.add_argument("--batch_size", type=int, nargs="+", help="128, and 1024 on a GPU")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, help="bf16-mixed, and the others on a GPU")
    help_ = "ours with torch.compile, or without (default: without, and with --synthetic on a GPU both)"
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help=help_)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 16), help="of minimal_glo's way")
    parser.add_argument("--batches", type=int, help="that are timed in a round: 60, on a GPU 500")
    parser.add_argument("--rounds", type=int, help="3, on a GPU 1")
    parser.add_argument("--latent_dim", type=int, default=100)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--n_pca", type=int, default=24_576, help="rows that the PCA is fitted on")
    parser.add_argument("--table_rows", type=int, default=3_000_000, help="of the table whose update is timed")
    parser.add_argument("--encoded", type=int, help="images that are encoded, or 0: 16, on a GPU 1,000")
    parser.add_argument("--epochs", type=int, help="of the quickstart; the recipe's if not given")
    options, others = parser.parse_known_args(arguments)
    if others and not options.quickstart:
        parser.refuse_unknown(others)
        parser.error(f"unrecognized arguments: {others[0]}")
    for key, value in DEFAULTS[options.accelerator].items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    both = options.synthetic and options.accelerator == "gpu"
    options.compile = [options.compile] if options.compile is not None else [False, True] if both else [False]
    check_outputs({"json": options.json}, overwrite=True)
    options.warm = WARM[options.accelerator]
    for key in ("rows", "batches", "rounds", "latent_dim", "width", "n_pca", "table_rows", "epochs"):
        if getattr(options, key) is not None:
            check_at_least(key, getattr(options, key), 1)
    check_at_least("batch_size", min(options.batch_size), 1)
    if options.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError("accelerator", "gpu", "no CUDA device that torch can use is here; give cpu")
    if options.accelerator == "cpu" and "tf32" in options.precision:
        raise InputError("precision", "tf32", "is a GPU's; give bf16-mixed or 32-true")
    return options, others


def measure(options: argparse.Namespace, source: Records | SyntheticSource, device: torch.device) -> dict[str, Any]:
    """All measurements but the quickstart's."""
    data = [Images(source, batch_size) for batch_size in options.batch_size]
    with contextlib.redirect_stdout(io.StringIO()):
        _ = data[0].dataset  # decodes what is not cached yet
    result: dict[str, Any] = {"training": []}
    for images in data:
        tell(f"training in batches of {images.batch_size}")
        rows, model = measure_training(options, images, device)
        result["training"] += rows
        if images is data[0] and options.encoded:
            tell("encoding")
            result["encoding"] = measure_encoding(options, images, model, device)
    tell("waits")
    result["waits"] = measure_waits(options, data[0])
    tell("a step and its parts")
    result["step"] = measure_step(options, data[0], device)
    result["floor"] = measure_floor(options, device)
    tell("PCA")
    result["pca"] = measure_pca(options, data[0], device)
    tell("the update of codes")
    result["update"] = measure_update(options, device)
    result["peak_host_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    result["peak_device_gb"] = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
    return result


def tell(what: str) -> None:
    """Says what is measured now, on standard error."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """GPU, versions and commit; no name or path of the machine."""
    environment = describe_environment(None)
    environment["machine"].pop("name")
    kept = {key: environment[key] for key in ("time", "python", "packages", "machine")}
    git = environment["git"] or {"commit": None, "dirty": None}
    given = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    return {**git, **kept, "options": {key: value for key, value in given.items() if key not in ("root", "json")}}


def show(result: dict[str, Any]) -> None:
    """Prints what was measured."""
    print("| batch | precision | compiled | images/s | with epoch ends | careful | ratio | minimal | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in result["training"]:
        cells = [row["batch_size"], row["precision"], "yes" if row["compile"] else "no"]
        cells += [f"{row['images_per_second']:.0f}", f"{row['images_per_second_with_epoch_ends']:.0f}"]
        for name in ("careful", "minimal"):
            cells += [f"{row[f'{name}_images_per_second']:.0f}", f"{row[f'ratio_{name}']:.2f}"]
        print(f"| {' | '.join(map(str, cells))} |")
    step, pca, update = (result[key] for key in ("step", "pca", "update"))
    print(f"\na step alone, batch {step['batch_size']}, {step['precision']}, milliseconds:")
    print(", ".join(f"{name} {value:.2f}" for name, value in step["milliseconds"].items()))
    print(f"careful over ours: {step['ratio_careful']:.2f}; minimal over ours: {step['ratio_minimal']:.2f}")
    for waits in result["waits"]:
        how = "compiled" if waits["compile"] else "not compiled"
        between, all_steps = waits["waits_a_step_between_logs"], waits["waits_a_step"]
        print(f"waits a step, {how}: {between:.2f} between two that are logged, {all_steps:.2f} over all")
    fit, plain, explained = (pca[key] for key in ("fit_seconds", "sklearn_fit_seconds", "explained_over_sklearn"))
    print(
        f"PCA fit on {pca['n_pca']} images: {fit:.1f} s, scikit-learn's {plain:.1f} s, ratio {pca['ratio']:.2f}; ",
        end="",
    )
    print(f"it explains {100 * explained:.2f} % of what that explains")
    print(f"PCA start of {pca['start_images']} codes: {pca['start_seconds']:.1f} s")
    if "encoding" in result:
        print(f"encoding {result['encoding']['images']} images: {result['encoding']['seconds']:.1f} s")
    print(f"update of 128 codes among {update['rows']}: {update['milliseconds']:.2f} ms, ", end="")
    print(f"{update['ratio']:.2f} times that among {update['small_rows']}")
    floor = result["floor"]["images_per_second"]
    print(f"what the device's products and copies allow: {floor:.0f} images/s")
    print(f"peak memory: host {result['peak_host_gb']:.2f} GB, device {result['peak_device_gb']:.2f} GB")


def show_quickstart(result: dict[str, Any]) -> None:
    last, reached = result["epochs"][-1], result["seconds_to_loss"]
    when = "not reached" if reached is None else f"reached after {reached:.1f} s"
    print(f"loss {result['loss']:.3f}: {when}; {last['loss']:.3f} after {last['seconds']:.1f} s")
    for how, steps in result["steps"].items():
        print(f"\n| operation, {how} | calls a step | CPU ms | device ms |\n|---|---|---|---|")
        for row in steps["profile"]:
            times = f"{row['calls_a_step']:.1f} | {row['cpu_ms_a_step']:.3f} | {row['device_ms_a_step']:.3f}"
            print(f"| {row['operation'][:60]} | {times} |")
        waits = steps["waits"]
        print(f"\nwaits a step: {waits['waits_a_step_between_logs']:.2f} between two that are logged; {waits['what']}")
    print(f"deterministic: {result['deterministic']}")


def run() -> None:
    began = time.monotonic()
    options, others = parse()
    device = torch.device("cuda" if options.accelerator == "gpu" else "cpu")
    if options.quickstart:
        from benchmarking.quickstart import measure_quickstart  # the command line's classes, and so jsonargparse

        source = make_source(None, None, [1], synthetic=False)
        result = measure_quickstart(options, others)
        show_quickstart(result)
    else:
        rows = options.rows or (SYNTHETIC_ROWS[options.accelerator] if options.synthetic else None)
        source = make_source(options.root, rows, options.batch_size, options.synthetic)
        result = measure(options, source, device)
        show(result)
    result["environment"] = describe(options)
    result["seconds"] = time.monotonic() - began
    write_json(options.json.absolute(), result)
    print(f"{result['seconds']:.0f} s; wrote {options.json}")


@streams_may_close()
def main() -> None:
    warnings.filterwarnings("ignore")
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        # the cache of synthetic images goes with them
        with tempfile.TemporaryDirectory() as folder:
            if "--synthetic" in sys.argv:
                os.environ["XDG_CACHE_HOME"] = folder
            run()
    except InputError as error:
        sys.stderr.write(error.line(f"--{error.key}") + "\n")
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
