"""What does an encoder's answer cost, and how good is it? python scripts/studies/encoder.py RUN [--num 128]

Fits an encoder to RUN, which has held-out images, and encodes these: by today's descent, by the linear map alone, by
the encoder, and by descent from its answer. Milliseconds are a processor's, of one thread, an image; the starts that
look at the training images take seconds besides, once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from glo_lightning.encoding import RATE, STARTS, starting_codes
from glo_lightning.explore.encoder import SECONDS, STEPS, Encoder, answer, fit_encoder
from glo_lightning.explore.evaluation import generate
from glo_lightning.explore.trained_run import NEAR, load_run
from glo_lightning.images import from_uint8, to_unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run with held-out images")
    parser.add_argument("--num", type=int, default=128, help="held-out images, at most")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the fit, at most")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of the fit, at most")
    options = parser.parse_args()
    trained = load_run(options.run, "cpu")
    model, data = trained.model, trained.data
    table = model.latents.weight
    wanted = from_uint8(data.dataset[data.holdout_rows(len(data.source))[: options.num]][0])
    began, spent = time.monotonic(), time.process_time()
    encoder = fit_encoder(model, trained.images, options.steps, options.seconds)
    print(f"fitted in {time.monotonic() - began:.0f} s, {time.process_time() - spent:.0f} of a processor")
    torch.set_num_threads(1)
    starts = starting_codes(table, trained.training(), wanted, STARTS, model.n_pca, model.whiten)
    linear = Encoder(wanted.shape[1], wanted.shape[2], table.shape[1]).eval()  # what its network adds is nothing yet
    linear.linear = encoder.linear
    print("| code | PSNR, dB | ms |\n|---|---|---|", flush=True)

    def add(name: str, find: Callable[[], Tensor]) -> Tensor:
        began = time.process_time()
        with torch.no_grad():
            codes = find()
        spent = 1000 * (time.process_time() - began) / len(wanted)
        error = (to_unit(generate(model, codes)) - to_unit(wanted)).square().mean()
        print(f"| {name} | {float(-10 * torch.log10(error)):.2f} | {spent:.1f} |", flush=True)
        return codes

    def one_by_one(encoder: Encoder) -> Tensor:
        return torch.cat([answer(encoder, model, image[None]) for image in wanted])

    def descent(starts: Tensor, steps: int, rate: float = RATE) -> Callable[[], Tensor]:
        return lambda: model.encode(wanted, starts=starts, steps=steps, rate=rate)

    add("PCA coordinates", lambda: model.project(starts[:, STARTS.index("pca")]))
    add("PCA coordinates, 10 steps", descent(starts[:, :1], 10))
    add("linear map", lambda: one_by_one(linear))
    codes = add("encoder", lambda: one_by_one(encoder))[:, None]
    for steps in (10, 30):
        add(f"encoder, {steps} steps", descent(codes, steps, NEAR))
    add("encoder, 150 steps", descent(codes, 150))
    add("full descent", descent(starts, 150))
    add("full descent, the encoder among the starts", descent(torch.cat([codes, starts], dim=1), 150))


if __name__ == "__main__":
    main()
