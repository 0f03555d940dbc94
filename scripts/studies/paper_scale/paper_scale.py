"""GLO at the paper's scale: python scripts/studies/paper_scale/paper_scale.py RUN [RUN ...] [--plain] [--json FILE]

For each run: the loss of its first and last epoch, images/s and the hours of its steps, PSNR of training and of
held-out images. --plain trains minimal_glo's loop (benchmarking/plain_loops.py) for one epoch on the first run's
training images, with its dimensions, width and batch: its loss, and images/s.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.extend(str(folder) for folder in Path(__file__).resolve().parents[1:3])

from benchmarking.data import Records
from benchmarking.plain_loops import MinimalLoop
from harness import StudyParser, markdown, silence

from glo_lightning.explore.codes import generate
from glo_lightning.explore.interactive import load_run
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import write_text
from glo_lightning.images import from_uint8, psnr


def describe(trained: TrainedRun, folder: Path, encoded: int) -> dict[str, float]:
    """Losses, speed and PSNR of a run."""
    events = EventAccumulator(str(folder))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss_epoch")]
    rate = statistics.median(event.value for event in events.Scalars("train/images_per_second"))
    data, model = trained.data, trained.model
    measures = {"epochs": len(losses), "loss after 1": losses[0], "loss after all": losses[-1], "images/s": rate}
    measures["hours"] = len(losses) * data.num_images / rate / 3600
    images = trained.images(range(4096))
    measures["PSNR"] = float(psnr(generate(model, model.latents.weight[: len(images)]).cpu(), from_uint8(images)))
    if data.holdout:
        images = from_uint8(data.dataset[data.holdout_rows(encoded)][0].to(model.device))
        codes = model.encode(images, trained.pca_images(), ["pca"], steps=60)
        measures["held-out PSNR"] = float(psnr(generate(model, codes), images))
    return measures


def plain_epoch(trained: TrainedRun, workers: int) -> dict[str, float]:
    """The mean loss of one epoch of minimal_glo's loop on a run's training images, and images/s."""
    source = Records(trained.config["data"]["root"], trained.data.num_images)
    model, batch_size = trained.model, trained.data.batch_size
    width = model.hparams["generator"]["init_args"]["width"]
    loop = MinimalLoop(len(source), model.hparams["latent_dim"], width, torch.device(model.device))
    batches = loop.batches(source, batch_size, workers)
    began = time.monotonic()
    losses = [loop.step(*next(batches)) for _ in range(len(source) // batch_size)]
    rate = len(losses) * batch_size / (time.monotonic() - began)
    return {"epochs": 1, "loss after 1": statistics.fmean(losses), "images/s": rate}


def main() -> None:
    parser = StudyParser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--plain", action="store_true", help="also train minimal_glo's loop")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode for minimal_glo's loop")
    parser.add_argument("--encoded", type=int, default=256, help="largest number of held-out images")
    parser.add_argument("--json", type=Path, help="a file for the results")
    options = parser.parse_args()
    silence()
    runs = {folder: load_run(folder) for folder in options.runs}
    results = {folder.name: describe(trained, folder, options.encoded) for folder, trained in runs.items()}
    if options.plain:
        results["minimal_glo's loop"] = plain_epoch(runs[options.runs[0]], options.workers)
    print(markdown("run", results, digits=3))
    if options.json:
        write_text(options.json.absolute(), json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
