"""What does an encoder's answer cost, and how good is it? python scripts/studies/encoder/encoder.py RUN [--num 128]

Fits an encoder to a run with held-out images and encodes these: by descent, by the encoder's first linear map alone, by
the encoder, and by descent from its answer. Milliseconds are processor time an image, of one thread. The starts that
need the training images take seconds besides, once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import StudyParser

from glo_lightning.encoding import BETAS, STARTS, WARM_START_BETAS, starting_codes
from glo_lightning.explore.codes import generate
from glo_lightning.explore.encoder import MAX_SECONDS, fit_encoder
from glo_lightning.explore.interactive import load_run
from glo_lightning.generator import code_side
from glo_lightning.images import from_uint8, psnr


def main() -> None:
    parser = StudyParser(__doc__)
    parser.add_argument("run", help="a run folder with held-out images")
    parser.add_argument("--num", type=int, default=128, help="largest number of held-out images")
    parser.add_argument("--seconds", type=float, default=MAX_SECONDS, help="longest time of the fit")
    options = parser.parse_args()
    trained = load_run(options.run, "cpu")
    model, data = trained.model, trained.data
    images = from_uint8(data.dataset[data.holdout_rows(len(data.source))[: options.num]][0])
    torch.set_num_threads(1)
    began = time.process_time()
    encoder = fit_encoder(model, trained.images, options.seconds)
    print(f"fitted in {time.process_time() - began:.0f} s of processor time", flush=True)
    pca = (model.n_pca, model.whiten, code_side(model.generator))
    starts = starting_codes(model.latents.weight, trained.pca_images(), images, STARTS, *pca)
    print("| code | PSNR, dB | ms |\n|---|---|---|", flush=True)

    def add_row(name: str, find: Callable[[], Tensor]) -> Tensor:
        began = time.process_time()
        with torch.no_grad():
            codes = find()
        milliseconds = 1000 * (time.process_time() - began) / len(images)
        print(f"| {name} | {psnr(generate(model, codes), images):.2f} | {milliseconds:.1f} |", flush=True)
        return codes

    def descent(starts: Tensor, steps: int, betas: tuple[float, float] = BETAS) -> Callable[[], Tensor]:
        return lambda: model.encode(images, starts=starts, steps=steps, betas=betas)

    add_row("PCA coordinates", lambda: model.project(starts[:, STARTS.index("pca")]))
    add_row("PCA coordinates, 10 steps", descent(starts[:, :1], 10, WARM_START_BETAS))
    add_row("first linear map", lambda: model.project(encoder.first(encoder.pixels(images))))
    codes = add_row("encoder", lambda: encoder.encode(images, model))[:, None]
    for steps in (10, 30):
        add_row(f"encoder, {steps} steps", descent(codes, steps, WARM_START_BETAS))
    add_row("encoder, 10 steps with Adam's default betas", descent(codes, 10))
    add_row("encoder, 150 steps", descent(codes, 150))
    add_row("full descent", descent(starts, 150))
    add_row("full descent, the encoder among the starts", descent(torch.cat([codes, starts], dim=1), 150))


if __name__ == "__main__":
    main()
