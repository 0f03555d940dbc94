"""Times this project against a plain loop, side by side: python scripts/benchmark.py --root DIR [--accelerator gpu]

The plain loop does what minimal_glo's program did: a DataLoader with workers that decode every image in every epoch
with Pillow and torchvision's transforms, two Laplacian pyramids whose kernel is made anew at each call, codes in NumPy
that are copied to the device and back, SGD, the loss read at every step. Both are warmed up, then repeated in turn.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import platform
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, Trainer
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.lmdb_source import LMDBSource
from glo_lightning.generator import FirstLayer, Generator
from glo_lightning.images import from_uint8
from glo_lightning.latents import fit_pca, to_ball
from glo_lightning.module import GLO

LATENT_DIM, IMAGE_SIZE = 100, 64


# ------------------------------------------------------------------------------------------------------- the plain loop


class PlainDataset(Dataset):
    """LSUN as minimal_glo reads it: keys from the LMDB, Pillow, torchvision's transforms."""

    def __init__(self, source: LMDBSource):
        self.source = source
        steps = [transforms.Resize(IMAGE_SIZE), transforms.CenterCrop(IMAGE_SIZE), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize([0.5] * 3, [0.5] * 3)])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        record = self.source.record(index) or b""
        return self.transform(Image.open(io.BytesIO(record)).convert("RGB")), index


def plain_pyramid(images: Tensor, levels: int = 3) -> list[Tensor]:
    grid = np.float32(np.mgrid[0:5, 0:5].T) - 2
    kernel = np.exp(-(grid**2).sum(-1) / (2 * 2.0**2))
    weight = torch.tensor(kernel / kernel.sum(), dtype=images.dtype, device=images.device).expand(3, 1, 5, 5)
    pyramid = []
    for _ in range(levels):
        blurred = F.conv2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), weight, groups=3)
        pyramid.append(images - blurred)
        images = F.avg_pool2d(blurred, 2)
    return [*pyramid, images]


def plain_generator() -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels, following in ((LATENT_DIM, 512), (512, 256), (256, 128), (128, 64)):
        stride, padding = (1, 0) if channels == LATENT_DIM else (2, 1)
        layers += [nn.ConvTranspose2d(channels, following, 4, stride, padding, bias=False)]
        layers += [nn.BatchNorm2d(following), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh())


class PlainLoop:
    """minimal_glo's training loop."""

    def __init__(self, num_images: int, device: torch.device):
        self.device = device
        self.generator = plain_generator().to(device)
        codes = np.random.default_rng(0).normal(size=(num_images, LATENT_DIM))
        self.codes = codes / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1)

    def step(self, images: Tensor, index: Tensor) -> float:
        images = images.to(self.device)
        codes = torch.tensor(self.codes[index.numpy()], dtype=torch.float32, device=self.device, requires_grad=True)
        groups = [{"params": self.generator.parameters(), "lr": 1.0}, {"params": [codes], "lr": 10.0}]
        optimizer = torch.optim.SGD(groups)
        generated = self.generator(codes[:, :, None, None])
        pairs = zip(plain_pyramid(generated), plain_pyramid(images), strict=True)
        loss = torch.stack([F.l1_loss(fake, image) for fake, image in pairs]).sum()
        self.generator.zero_grad()
        loss.backward()
        optimizer.step()
        moved = codes.detach().cpu().numpy()
        self.codes[index.numpy()] = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1)
        return loss.item()


# ------------------------------------------------------------------------------------------------------------- timing


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], device: torch.device, repeats: int = 1) -> float:
    """Mean seconds of one call."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronize(device)
    return (time.perf_counter() - began) / repeats


def best_in_turn(
    works: dict[str, Callable[[], Any]], device: torch.device, rounds: int, repeats: int
) -> dict[str, float]:
    """The best seconds of each, over rounds in which they take turns; one call of each warms up."""
    for work in works.values():
        work()
    times = [{name: seconds(work, device, repeats) for name, work in works.items()} for _ in range(rounds)]
    return {name: min(time[name] for time in times) for name in works}


class EpochTimer(Callback):
    """Images a second of each epoch."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        synchronize(pl_module.device)
        self.images, self.began = 0, time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.images += len(batch[1])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        synchronize(pl_module.device)
        self.rates.append(self.images / (time.perf_counter() - self.began))


def measure_end_to_end(options: argparse.Namespace, data: LSUNDataModule, device: torch.device) -> dict[str, float]:
    """Images a second, from the second epoch on: ours through the Trainer, the plain loop with its DataLoader."""
    batches = min(options.batches, len(data.train_dataloader()))
    plain = PlainLoop(data.num_images, device)
    dataset = Subset(PlainDataset(LMDBSource(options.root)), range(options.rows))
    loader = DataLoader(
        dataset, options.batch_size, shuffle=True, drop_last=True,
        num_workers=options.workers, persistent_workers=True, pin_memory=device.type == "cuda",
    )  # fmt: skip

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    stream = forever()
    ours, theirs = [], []
    for _ in range(options.rounds):
        timer = EpochTimer()
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        quiet |= {"enable_model_summary": False, "accelerator": options.accelerator, "precision": options.precision}
        trainer = Trainer(max_epochs=3, limit_train_batches=batches, callbacks=[timer], devices=1, **quiet)
        model = GLO(data.num_images, latent_dim=LATENT_DIM, init="random", compile=options.compile)
        trainer.fit(model, data)
        ours += timer.rates[1:]
        for _ in range(3):
            plain.step(*next(stream))
        spent = seconds(lambda: [plain.step(*next(stream)) for _ in range(batches // 2)], device)
        theirs.append(batches // 2 * options.batch_size / spent)
    return {"images_per_second": max(ours), "plain_images_per_second": max(theirs)}


def measure_step(options: argparse.Namespace, data: LSUNDataModule, device: torch.device) -> dict[str, Any]:
    """Milliseconds of one step on a batch that is there, ours and the plain loop's, and of ours' parts."""
    batch, index = data.dataset[list(range(options.batch_size))]
    images, rows = from_uint8(batch).to(device), index.to(device)
    model = GLO(data.num_images, latent_dim=LATENT_DIM, init="random").to(device)
    objective = torch.compile(model.objective, dynamic=False) if options.compile else model.objective
    optimizer = torch.optim.SGD(
        [{"params": list(model.generator.parameters()), "lr": 1.0}, {"params": [model.latents.weight], "lr": 0.08}]
    )
    low = "16" in options.precision
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=low)
    table, generated = model.latents.weight, torch.zeros_like(images, requires_grad=True)

    def update() -> None:
        optimizer.step()
        with torch.no_grad():
            table[rows] = to_ball(table[rows])

    def step() -> None:
        optimizer.zero_grad()
        with autocast:
            loss = objective(model.latents(rows), images)
        loss.backward()
        update()

    def generator_alone() -> None:
        with autocast:
            made = model.generator(table[rows])
        made.backward(torch.ones_like(made))

    plain = PlainLoop(data.num_images, device)
    shuffled = torch.randperm(data.num_images)[: options.batch_size].tolist()
    works = {
        "step": step,
        "plain_step": lambda: plain.step(images.cpu(), index),
        "generator": generator_alone,
        "loss": lambda: model.loss(generated, images).backward(),
        "update": update,
        "data": lambda: from_uint8(data.dataset[shuffled][0].to(device)),
    }
    return {name: 1e3 * value for name, value in best_in_turn(works, device, options.rounds, 3).items()}


def measure_update(device: torch.device) -> float:
    """Time of one sparse update of 128 codes among 3,000,000, over that among 3,000."""

    def update_of(num_rows: int) -> Callable[[], None]:
        table = nn.Embedding(num_rows, LATENT_DIM, sparse=True, device=device)
        optimizer = torch.optim.SGD(table.parameters(), lr=0.1)

        def update() -> None:
            rows = torch.randint(num_rows, (128,), device=device)
            optimizer.zero_grad()
            table(rows).sum().backward()
            optimizer.step()
            with torch.no_grad():
                table.weight[rows] = to_ball(table.weight[rows])

        return update

    times = best_in_turn({"3m": update_of(3_000_000), "3k": update_of(3_000)}, device, rounds=7, repeats=200)
    return times["3m"] / times["3k"]


def measure_pca(data: LSUNDataModule, device: torch.device, num_rows: int = 24_576) -> dict[str, float]:
    """Seconds of the fit on 24,576 rows, mixtures of images where there are fewer, ours and scikit-learn's default."""
    random = np.random.default_rng(0)
    images, _ = data.dataset[sorted(random.permutation(data.num_images)[:num_rows].tolist())]
    known = from_uint8(images).flatten(1).numpy()
    missing = num_rows - len(known)
    first, second = random.integers(len(known), size=(2, missing))
    sample = np.concatenate([known, (known[first] + known[second]) / 2])
    fitted: dict[str, Any] = {}

    def ours() -> None:
        fitted["ours"] = fit_pca(rows, LATENT_DIM)

    def plain() -> None:
        fitted["plain"] = PCA(LATENT_DIM).fit(sample)

    times: dict[str, list[float]] = {"pca": [], "plain_pca": []}
    for _ in range(2):
        times["plain_pca"].append(seconds(plain, torch.device("cpu")))
        rows = torch.from_numpy(sample.copy()).to(device)  # ours overwrites them
        times["pca"].append(seconds(ours, device))
    explained = float(((torch.from_numpy(sample).to(device) - fitted["ours"].mean) @ fitted["ours"].axes).var(0).sum())
    explained /= float(fitted["plain"].explained_variance_.sum())
    return {name: min(values) for name, values in times.items()} | {"pca_explained_over_plain": explained}


def measure_floor(options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Images a second that the generator allows, at the device's own rates and with nothing else to do.

    Counted are the products, one forward and two backward, at the rate of a large matrix product; and the bytes of the
    activations, at the rate of a large copy. Forward a layer's output is written, read for BatchNorm's statistics, read
    and written by BatchNorm with ReLU, and read by the next layer: 5; backward the same for its gradient, and the
    output itself is read twice more: 7. The floor is the slower of the two.
    """
    flops, elements, pixels = 0, 0, 1
    for layer in Generator(LATENT_DIM, IMAGE_SIZE).layers:
        if isinstance(layer, FirstLayer | nn.ConvTranspose2d):
            flops += 3 * 2 * layer.weight.numel() * pixels
            pixels = 16 if pixels == 1 else 4 * pixels
            elements += layer.out_features if isinstance(layer, FirstLayer) else layer.out_channels * pixels
    dtype = torch.bfloat16 if "16" in options.precision else torch.float32
    side = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    works = {"product": lambda: a @ b, "copy": lambda: b.copy_(a)}
    times = best_in_turn(works, device, 3, 3)
    rates = {"matrix_flops_per_second": 2 * side**3 / times["product"]}
    rates["copy_bytes_per_second"] = 2 * a.numel() * a.element_size() / times["copy"]
    products = flops / rates["matrix_flops_per_second"]
    passes = 12 * elements * a.element_size() / rates["copy_bytes_per_second"]
    return rates | {"floor_images_per_second": 1 / max(products, passes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="an LMDB or LSUN folder; the shipped images if not given")
    parser.add_argument("--rows", type=int, help="images to use, at most; all if not given")
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--precision", default="bf16-mixed", help="ours; the plain loop is in float32")
    parser.add_argument("--compile", action="store_true", help="ours with torch.compile")
    parser.add_argument("--workers", type=int, default=2, help="the plain loop's")
    parser.add_argument("--batches", type=int, default=30, help="in an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    device = torch.device("cuda" if options.accelerator == "gpu" else "cpu")
    data = LSUNDataModule(options.root, options.rows, batch_size=options.batch_size)
    _ = data.dataset  # decodes what is not in the store yet

    result: dict[str, Any] = measure_end_to_end(options, data, device)
    milliseconds = measure_step(options, data, device)
    result |= measure_floor(options, device) | measure_pca(data, device)
    result["ratio_end_to_end"] = result["images_per_second"] / result["plain_images_per_second"]
    result["ratio_step"] = milliseconds["plain_step"] / milliseconds["step"]
    result["ratio_pca"] = result["plain_pca"] / result["pca"]
    result["ratio_update_3m_over_3k"] = measure_update(device)
    result["fraction_of_floor"] = result["images_per_second"] / result["floor_images_per_second"]
    whole = 1e3 * options.batch_size / result["images_per_second"]
    parts = {name: milliseconds[name] for name in ("data", "generator", "loss", "update")}
    parts["framework"] = max(0.0, whole - sum(parts.values()))
    result["share"] = {name: value / whole for name, value in parts.items()}
    result["step_images_per_second"] = 1e3 * options.batch_size / milliseconds["step"]
    result["plain_step_images_per_second"] = 1e3 * options.batch_size / milliseconds["plain_step"]
    result["peak_host_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    result["peak_device_gb"] = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
    result["device"] = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    result |= {"batch_size": options.batch_size, "precision": options.precision, "compile": options.compile}

    print("| | glo_lightning | plain loop | ratio |\n|---|---|---|---|")
    for title, ours, theirs, ratio in (
        ("images/s, end to end", "images_per_second", "plain_images_per_second", "ratio_end_to_end"),
        ("images/s, step alone", "step_images_per_second", "plain_step_images_per_second", "ratio_step"),
        ("PCA fit, s", "pca", "plain_pca", "ratio_pca"),
    ):
        print(f"| {title} | {result[ours]:.1f} | {result[theirs]:.1f} | {result[ratio]:.2f} |")
    print("\nshare of a step:", ", ".join(f"{name} {100 * share:.1f} %" for name, share in result["share"].items()))
    print(f"update of 128 codes among 3,000,000 over among 3,000: {result['ratio_update_3m_over_3k']:.2f}")
    print(f"PCA explains {100 * result['pca_explained_over_plain']:.2f} % of what scikit-learn's default explains")
    print(f"peak memory: host {result['peak_host_gb']:.2f} GB, device {result['peak_device_gb']:.2f} GB")
    print(f"fraction of the floor: {result['fraction_of_floor']:.2f}; {result['device']}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
