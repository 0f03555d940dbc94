"""What a run is made of, each by itself: a step and its parts, the update of the codes, the PCA start, encoding."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from benchmarking.data import Images
from benchmarking.plain_loops import CarefulLoop, MinimalLoop
from benchmarking.training import is_low, make_model, seconds, set_tf32
from glo_lightning.generator import FirstLayer, Generator
from glo_lightning.images import from_uint8
from glo_lightning.latents import init_from_pca, per_sample_gradients, to_ball
from glo_lightning.module import GLO
from glo_lightning.optimizers import RowSGD
from glo_lightning.pca import fit_pca_rows


def best_in_turn(
    works: dict[str, Callable[[], Any]], device: torch.device, rounds: int, repeats: int
) -> dict[str, float]:
    """The best seconds of each, over rounds in which they take turns; three calls of each warm up."""
    for work in works.values():
        seconds(work, device, 3)
    times = [{name: seconds(work, device, repeats) for name, work in works.items()} for _ in range(rounds)]
    return {name: min(time[name] for time in times) for name in works}


def update_codes(table: nn.Embedding, optimizer: RowSGD, rows: Tensor, gradient: Tensor, lr: float = 0.1) -> None:
    """Looks rows (B,) of the table up, gives them a sparse gradient (B, D), steps and projects, as in training."""
    per_sample_gradients(table(rows)).backward(gradient)
    with torch.no_grad():
        optimizer.update_rows(table.weight, table.weight.grad, lr)  # type: ignore[arg-type]
        table.weight[rows] = to_ball(table.weight[rows])
    table.weight.grad = None


class OurStep:
    """One step of a GLO on a batch that lies on the device, without Lightning."""

    def __init__(self, model: GLO, images: Tensor, rows: Tensor, low: bool):
        model.on_fit_start()  # compiles, the way that it does in training
        self.model, self.images, self.rows = model, images, rows
        self.autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=low)
        self.optimizer: Any = model.configure_optimizers()

    def __call__(self) -> Tensor:
        """One step; the loss, still on the device."""
        model, table = self.model, self.model.latents.weight
        with self.autocast:
            loss = model.objective(per_sample_gradients(model.latents(self.rows)), self.images)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            model.latent_optimizer.update_rows(table, table.grad, model.latent_lr)
            table.grad = None
            table[self.rows] = model.project(table[self.rows])
        return loss.detach()


def measure_step(options: argparse.Namespace, data: Images, device: torch.device) -> dict[str, Any]:
    """Milliseconds of one step on a batch that is there, ours and the plain loops', and of ours' parts, not compiled.

    ``generator`` and ``loss`` are forward and backward; ``update`` is the lookup of the codes with its sparse gradient,
    SGD on the codes, and the projection; ``data`` gathers a batch's uint8 pixels and scales them.
    """
    torch.compiler.reset()
    low = is_low(options.precision[0])
    set_tf32(options.precision[0])
    pixels = data.dataset.images.to(device)  # type: ignore[union-attr]
    rows = torch.randperm(data.num_images, device=device)[: data.batch_size]
    images = from_uint8(pixels[rows])

    def ours(compiled: bool) -> OurStep:
        model = make_model(options, data.num_images, compiled)
        return OurStep(model.to(device), images, rows, low)

    apart = ours(False)
    apart()  # gives the generator gradients for the update to take
    model, generated = apart.model, torch.zeros_like(images, requires_grad=True)
    gradient = torch.full((len(rows), options.latent_dim), 1e-6, device=device)
    codes = model.latents(rows).detach().requires_grad_()

    def generator_alone() -> None:
        with apart.autocast:
            made = model.generator(codes)
        made.backward(torch.full_like(made, 1e-9))

    careful = CarefulLoop(pixels, options.latent_dim, options.width, low)
    minimal = MinimalLoop(data.num_images, options.latent_dim, options.width, device)
    on_host = (images.cpu(), rows.cpu())
    works: dict[str, Callable[[], Any]] = {
        **{"step_compiled" if compiled else "step": ours(compiled) for compiled in options.compile},
        "careful_step": lambda: careful.step(rows),
        "minimal_step": lambda: minimal.step(*on_host),
        "generator": generator_alone,
        "loss": lambda: model.loss(generated, images).backward(),
        "update": lambda: update_codes(model.latents, model.latent_optimizer, rows, gradient),
        "data": lambda: from_uint8(pixels[rows]),
    }
    repeats = 50 if device.type == "cuda" else 3
    times = {name: 1e3 * value for name, value in best_in_turn(works, device, options.rounds, repeats).items()}
    fastest = min(times[name] for name in ("step", "step_compiled") if name in times)
    ratios = {f"ratio_{name}": times[f"{name}_step"] / fastest for name in ("minimal", "careful")}
    return {"batch_size": data.batch_size, "precision": options.precision[0], "milliseconds": times, **ratios}


def measure_update(options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Milliseconds of one update of 128 codes in a large table and in one of 3,000 rows."""

    def update_of(num_rows: int) -> Callable[[], None]:
        table = nn.Embedding(num_rows, options.latent_dim, sparse=True, device=device)
        optimizer = RowSGD(options.latent_dim)
        gradient = torch.full((128, options.latent_dim), 1e-3, device=device)

        def update() -> None:
            update_codes(table, optimizer, torch.randint(num_rows, (128,), device=device), gradient)

        return update

    small = min(3_000, options.table_rows)
    works = {"large": update_of(options.table_rows), "small": update_of(small)}
    times = best_in_turn(works, device, rounds=7, repeats=200)
    return {
        "rows": options.table_rows,
        "milliseconds": 1e3 * times["large"],
        "small_rows": small,
        "small_milliseconds": 1e3 * times["small"],
        "ratio": times["large"] / times["small"],
    }


def measure_pca(options: argparse.Namespace, data: Images, device: torch.device) -> dict[str, float]:
    """Seconds of a PCA start: of the fit alone, ours and scikit-learn's default, and of all that a user waits for.

    The fit has ``n_pca`` rows, mixtures of images where there are fewer; the start gives every image its code.
    """
    random = np.random.default_rng(0)
    images, _ = data.dataset[sorted(random.permutation(data.num_images)[: options.n_pca].tolist())]
    known = from_uint8(images).flatten(1).numpy()
    first, second = random.integers(len(known), size=(2, options.n_pca - len(known)))
    sample = np.concatenate([known, (known[first] + known[second]) / 2])
    rows = torch.from_numpy(sample).to(device, copy=True)  # the fit overwrites them
    fitted: dict[str, Any] = {}
    times: dict[str, list[float]] = {"fit_seconds": [], "sklearn_fit_seconds": []}
    for _ in range(min(options.rounds, 2)):
        began = time.perf_counter()
        fitted["plain"] = PCA(options.latent_dim).fit(sample)
        times["sklearn_fit_seconds"].append(time.perf_counter() - began)
        rows.copy_(torch.from_numpy(sample))
        times["fit_seconds"].append(seconds(lambda: fitted.update(ours=fit_pca_rows(rows, options.latent_dim)), device))
    ours = fitted["ours"]
    explained = float(((rows.copy_(torch.from_numpy(sample)) - ours.mean) @ ours.axes).var(0).sum())
    table = torch.empty(data.num_images, options.latent_dim, device=device)
    n_pca = min(options.n_pca, data.num_images)
    start = seconds(
        lambda: init_from_pca(table, data.sequential_dataloader, to_ball, n_pca, False, nn.Identity()), device
    )
    best = {name: min(values) for name, values in times.items()}
    return {
        "n_pca": options.n_pca,
        **best,
        "ratio": best["sklearn_fit_seconds"] / best["fit_seconds"],
        "explained_over_sklearn": explained / float(fitted["plain"].explained_variance_.sum()),
        "start_images": data.num_images,
        "start_seconds": start,
    }


def measure_encoding(options: argparse.Namespace, data: Images, model: GLO, device: torch.device) -> dict[str, float]:
    """Seconds to find the codes of ``--encoded`` images by a trained model, from all starts, as scripts/encode.py does.

    The images are training images with noise; float32, as there.
    """
    set_tf32("32-true")
    model = model.to(device).eval().requires_grad_(False)
    training, _ = data.dataset[list(range(min(options.n_pca, data.num_images)))]
    chosen = training[torch.arange(options.encoded) % len(training)]
    images = from_uint8(chosen.to(device))
    images = (images + 0.1 * torch.randn_like(images)).clamp(-1, 1)
    spent = seconds(lambda: model.encode(images, training), device)
    return {"images": options.encoded, "seconds": spent, "images_per_second": options.encoded / spent}


def measure_floor(options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Images a second that the generator allows, at the device's own rates and with nothing else to do.

    Counted are the products, one forward and two backward, at the rate of a large matrix product; and the bytes of the
    activations, at the rate of a large copy. Forward a layer's output is written, read for BatchNorm's statistics, read
    and written by BatchNorm with ReLU, and read by the next layer: 5; backward the same for its gradient, and the
    output itself is read twice more: 7. The floor is the slower of the two.
    """
    flops, elements, pixels = 0, 0, 1
    for layer in Generator(options.latent_dim, width=options.width).layers:
        if isinstance(layer, FirstLayer | nn.ConvTranspose2d):
            flops += 3 * 2 * layer.weight.numel() * pixels
            pixels = 16 if pixels == 1 else 4 * pixels
            elements += layer.out_features if isinstance(layer, FirstLayer) else layer.out_channels * pixels
    set_tf32(options.precision[0])
    dtype = torch.bfloat16 if is_low(options.precision[0]) else torch.float32
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    times = best_in_turn({"product": lambda: a @ b, "copy": lambda: b.copy_(a)}, device, 3, 3)
    rates = {"matrix_flops_per_second": 2 * side**3 / times["product"]}
    rates["copy_bytes_per_second"] = 2 * a.numel() * a.element_size() / times["copy"]
    products = flops / rates["matrix_flops_per_second"]
    passes = 12 * elements * a.element_size() / rates["copy_bytes_per_second"]
    return rates | {"images_per_second": 1 / max(products, passes)}
