"""What makes a learned space better to sample from and walk in: python scripts/studies/levers.py FACES --judge FILE ...

Each lever is one change of a recipe (width 32, 64 dimensions, whitened PCA start, batch 32, cosine, 8 epochs of the
training faces), at the same number of steps, which cost the same to a few per cent. For each: PSNR of training and of
held-out faces, Frechet distances in the judge's features (judge.py) to the training faces of reconstructions, of
samples of the flow and of images half-way by each way, and how evenly the flow's way goes (space.py). The flow's
equation is solved in 8 steps, not the commands' 24, which makes distances larger by one or two per cent. What stands in
the JSON file is not made again, and several programs may each make some levers of a file of their own; with
``--accelerator gpu`` all levers train at once, see fleet.py.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import fleet
import torch
from harness import mean_and_deviation
from judge import part_rows
from space import Space
from torch import Tensor, nn

from glo_lightning.data import LSUNDataModule
from glo_lightning.explore.evaluation import load_features
from glo_lightning.explore.priors import sample_codes
from glo_lightning.explore.velocity import Velocity
from glo_lightning.files import write_text
from glo_lightning.generator import FirstLayer, Generator
from glo_lightning.module import GLO

BASE: dict[str, Any] = {
    "latent_dim": 64,
    "width": 32,
    "whiten": True,
    "schedule": "cosine",
    "l2_weight": 1.0,
    "weight_decay": 0.001,
}


class NoisyGLO(GLO):
    """Generates from codes that noise is added to, so that neighbouring codes mean similar images."""

    noise = 0.0  # its length over that of a code at the ball's surface, on average

    def objective(self, codes: Tensor, images: Tensor) -> Tensor:
        return super().objective(codes + self.noise / codes.shape[1] ** 0.5 * torch.randn_like(codes), images)


class MixedGLO(NoisyGLO):
    """Adds a penalty on what the middle of two codes decodes to: its mean gradient, wherever it is below theirs."""

    def objective(self, codes: Tensor, images: Tensor) -> Tensor:
        middle = self.generator(self.project((codes + codes.roll(1, 0)) / 2))
        slopes = [(made.diff(dim=2).abs().mean() + made.diff(dim=3).abs().mean()) for made in (middle, images)]
        return super().objective(codes, images) + (slopes[1] - slopes[0]).abs()


class BiasedGenerator(Generator):
    """DCGAN with a bias in its first layer: a learned constant, so that the middle of the codes is not a hole."""

    def __init__(self, latent_dim: int, image_size: int, width: int, channels: int = 3):
        super().__init__(latent_dim, image_size, width, channels)
        first = self.layers[0]
        assert isinstance(first, FirstLayer)
        first.bias = nn.Parameter(torch.zeros(first.out_features))


class SpectralGenerator(Generator):
    """DCGAN whose transposed convolutions have a largest singular value of 1, as a matrix."""

    def __init__(self, latent_dim: int, image_size: int, width: int, channels: int = 3):
        super().__init__(latent_dim, image_size, width, channels)
        for layer in self.layers:
            if isinstance(layer, nn.ConvTranspose2d):
                nn.utils.parametrizations.spectral_norm(layer)


class FlowGenerator(Generator):
    """DCGAN with a small velocity network beside it, for ``TogetherGLO``."""

    def __init__(self, latent_dim: int, image_size: int, width: int, channels: int = 3):
        super().__init__(latent_dim, image_size, width, channels)
        self.velocity = Velocity(latent_dim, (), 256, 2)


class TogetherGLO(GLO):
    """Learns a flow beside the generator; in the last quarter the codes follow its loss too (as LSGM, 2106.05931)."""

    weight = 0.05

    def objective(self, codes: Tensor, images: Tensor) -> Tensor:
        std, mean = torch.std_mean(self.latents.weight.detach(), dim=0)
        late = torch.as_tensor(self.global_step >= 0.75 * self.total_steps, dtype=codes.dtype, device=codes.device)
        scaled = (torch.lerp(codes.detach(), codes, late) - mean) / std
        noise, times = torch.randn_like(scaled), torch.rand(len(scaled), device=scaled.device)
        network: Any = self.generator.velocity
        velocity = network(torch.lerp(noise, scaled, times[:, None]), times)
        return super().objective(codes, images) + self.weight * (velocity - (scaled - noise)).square().mean()


# name -> (class, attributes of it, arguments); "images" is how many are trained on, all if not given
LEVERS: dict[str, tuple[type[GLO], dict[str, Any], dict[str, Any]]] = {
    "base": (GLO, {}, {}),
    "sphere": (GLO, {}, {"constraint": "sphere"}),
    "frozen PCA codes": (GLO, {}, {"latent_lr": 0.0}),
    "noise 0.1": (NoisyGLO, {"noise": 0.1}, {}),
    "noise 0.2": (NoisyGLO, {"noise": 0.2}, {}),
    "noise 0.3": (NoisyGLO, {"noise": 0.3}, {}),
    "middles as sharp": (MixedGLO, {}, {}),
    "bias": (GLO, {}, {"generator": "levers.BiasedGenerator"}),
    "D 48": (GLO, {}, {"latent_dim": 48}),
    "D 100": (GLO, {}, {"latent_dim": 100}),
    "weight decay 0.003": (GLO, {}, {"weight_decay": 0.003}),
    "no weight decay": (GLO, {}, {"weight_decay": 0.0}),
    "latent_lr x 0.1": (GLO, {}, {"latent_lr": 0.1 * 10 / 128}),
    "latent_lr x 10": (GLO, {}, {"latent_lr": 10 * 10 / 128}),
    "latent_lr x 100": (GLO, {}, {"latent_lr": 100 * 10 / 128}),
    "not whitened, sphere": (GLO, {}, {"whiten": False, "constraint": "sphere"}),
    "sphere, noise 0.1": (NoisyGLO, {"noise": 0.1}, {"constraint": "sphere"}),
    "sphere, noise 0.2": (NoisyGLO, {"noise": 0.2}, {"constraint": "sphere"}),
    "spectral norm": (GLO, {}, {"generator": "levers.SpectralGenerator"}),
    "codes and flow together": (TogetherGLO, {}, {"generator": "levers.FlowGenerator"}),
    "4,096 faces": (GLO, {}, {"images": 4096}),
    "D 100, sphere": (GLO, {}, {"latent_dim": 100, "constraint": "sphere"}),
    "D 100, weight decay 0.003": (GLO, {}, {"latent_dim": 100, "weight_decay": 0.003}),
    "D 100, bias": (GLO, {}, {"latent_dim": 100, "generator": "levers.BiasedGenerator"}),
    "D 100, frozen PCA codes": (GLO, {}, {"latent_dim": 100, "latent_lr": 0.0}),
}


def measure(space: Space, encoded: int, solver_steps: int) -> dict[str, float]:
    """The row of a lever."""
    flow = space.fit("flow")
    flow.solver_steps = solver_steps
    ways = space.ways(flow, 2048)
    found = {"PSNR": space.psnr()}
    codes, found["held-out"] = space.held_out_codes(space.real[:encoded], steps=60)
    added = space.arithmetic(codes, picked=100)
    rows = [row for name, row in added.items() if name != "strength"]
    found["appears"], found["stays"] = (sum(row[key] for row in rows) / len(rows) for key in ("appears", "stays"))
    found["rec."] = space.describe(space.generate(space.codes[: space.num]), False)["frechet"]
    drawn = sample_codes(flow, space.codes, space.num, space.model.project)
    samples = space.describe(space.generate(drawn), False)
    found |= {"flow": samples["frechet"], "sure": samples["sure"], "new pairs": samples["unseen_pairs"]}
    found |= {f"half-way, {way}": ways[way]["frechet_50"] for way in ("line", "arc", "flow")}
    return found | {"largest step": ways["flow"]["largest_step"], "length": ways["flow"]["length"]}


@functools.cache
def opened(faces: str) -> LSUNDataModule:
    """All faces, none held out."""
    return LSUNDataModule(faces)


@functools.cache
def space_of(faces: str, judge: str, device: str, num: int) -> Space:
    """The space that is asked again with each lever's model; the first one's is a place holder."""
    data = opened(faces)
    model = GLO(len(part_rows(data)["train"]), **BASE).to(device)
    return Space(model, data, load_features(judge).to(device), num=num)


def make(arguments: argparse.Namespace, job: fleet.Job) -> tuple[GLO, LSUNDataModule]:
    """A lever's model, and the faces that it is trained on."""
    kind, attributes, changed = LEVERS[job.names[0]]
    everything = opened(arguments.faces)
    images = changed.get("images", len(part_rows(everything)["train"]))
    data = LSUNDataModule(arguments.faces, holdout=len(everything.source) - images, batch_size=32, seed=job.seed)
    changed = {key: value for key, value in changed.items() if key != "images"}
    model = kind(data.num_images, **(BASE | {"width": arguments.width} | changed))
    for key, value in attributes.items():
        setattr(model, key, value)
    return model, data


def measured(arguments: argparse.Namespace, job: fleet.Job, model: GLO, data: LSUNDataModule) -> dict[str, float]:
    warnings.filterwarnings("ignore")
    space = space_of(arguments.faces, arguments.judge, str(model.device), arguments.num)
    return measure(space.of(model), arguments.encoded, arguments.solver_steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", help="an LMDB of scripts/make_faces.py")
    parser.add_argument("--judge", required=True, help="a file of judge.py")
    parser.add_argument("--only", nargs="+", default=list(LEVERS), choices=list(LEVERS), metavar="NAME")
    parser.add_argument("--epochs", type=int, default=8, help="of all training faces; a lever of fewer has more")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--num", type=int, default=10_000, help="images in each row")
    parser.add_argument("--encoded", type=int, default=100, help="held-out faces that are encoded")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--solver_steps", type=int, default=8, help="of the flow's equation")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--workers", type=int, default=12, help="processes that measure, beside a GPU")
    parser.add_argument("--json", type=Path, nargs="+", default=[], help="results: the first is written, all are read")
    arguments = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*torch.jit.load.*")
    steps = arguments.epochs * -(-len(part_rows(opened(arguments.faces))["train"]) // 32)
    results: dict[str, list[dict[str, float]]] = {}
    for file in arguments.json:
        results |= json.loads(file.read_text()) if file.exists() else {}
    jobs = [
        fleet.Job((name,), seed, steps)
        for name in arguments.only
        for seed in range(len(results.get(name, [])), arguments.seeds)
    ]
    parts = functools.partial(make, arguments), functools.partial(measured, arguments)
    done = fleet.run(jobs, *parts, arguments.accelerator, arguments.precision, arguments.workers)
    for job, found in done:
        results.setdefault(job.names[0], []).append(found)
        if arguments.json:
            write_text(arguments.json[0].absolute(), json.dumps(results, indent=1))
    columns = list(results[arguments.only[0]][0])
    print(f"| lever | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in arguments.only:
        cells = [mean_and_deviation([found[key] for found in results[name]], 2) for key in columns]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
