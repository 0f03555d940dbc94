"""GLO at the paper's scale: python scripts/studies/paper_scale.py RUN [RUN ...] [--plain] [--json FILE]

For each run: the loss of its first and last epoch, the hours that its steps took by train/images_per_second, PSNR of
training and of held-out images. ``--plain`` trains minimal_glo's loop (benchmarking/plain_loops.py) for one epoch on
the first run's training images, with its dimensions, width and batch: its loss, and images/s.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from glo_lightning.explore.evaluation import generate
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import write_text
from glo_lightning.images import from_uint8, psnr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarking.data import Records
from benchmarking.plain_loops import MinimalLoop


def describe(trained: TrainedRun, folder: Path, encoded: int) -> dict[str, float]:
    """What a run has reached."""
    events = EventAccumulator(str(folder))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss_epoch")]
    rate = statistics.median(event.value for event in events.Scalars("train/images_per_second"))
    data, model = trained.data, trained.model
    found = {"epochs": len(losses), "loss after 1": losses[0], "loss after all": losses[-1], "images/s": rate}
    found["hours"] = len(losses) * data.num_images / rate / 3600
    rows = list(range(min(4096, data.num_images)))
    made = generate(model, model.latents.weight[rows]).cpu()
    found["PSNR"] = float(psnr(made, from_uint8(data.dataset[rows][0])))
    if data.holdout:
        images = from_uint8(data.dataset[data.holdout_rows(encoded)][0].to(model.device))
        training = data.dataset[list(range(data.num_images))][0]
        made = generate(model, model.encode(images, training, ["pca"], steps=60))
        found["held-out PSNR"] = float(psnr(made, images))
    return found


def plain_epoch(
    source: Records, options: dict[str, Any], batch_size: int, workers: int, device: torch.device
) -> dict[str, float]:
    """minimal_glo's loop for one epoch: its mean loss, and images/s."""
    loop = MinimalLoop(len(source), options["latent_dim"], options["width"], device)
    batches = loop.batches(source, batch_size, workers)
    began, losses = time.monotonic(), []
    for _ in range(len(source) // batch_size):
        losses.append(loop.step(*next(batches)))
    seconds = time.monotonic() - began
    return {"epochs": 1, "loss after 1": statistics.fmean(losses), "images/s": len(losses) * batch_size / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--workers", type=int, default=2, help="that decode for minimal_glo's loop")
    parser.add_argument("--encoded", type=int, default=256, help="held-out images that are encoded")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # that a resumed run's steps are purged
    results: dict[str, dict[str, float]] = {}
    for folder in arguments.runs:
        trained = TrainedRun(folder)
        results[folder.name] = describe(trained, folder, arguments.encoded)
        if arguments.plain and "minimal_glo's loop" not in results:
            source = Records(trained.config["data"]["root"], trained.data.num_images)
            options = dict(trained.model.hparams)
            results["minimal_glo's loop"] = plain_epoch(
                source, options, trained.data.batch_size, arguments.workers, trained.model.device
            )
    columns = list(next(iter(results.values())))
    print(f"| run | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in results.items():
        print(f"| {name} | {' | '.join(f'{row[key]:.3f}' if key in row else '' for key in columns)} |")
    if arguments.json:
        write_text(arguments.json.absolute(), json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
