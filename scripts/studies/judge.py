"""Trains a classifier that tells the faces' attributes: python scripts/studies/judge.py FACES OUTPUT [--kind a]

FACES is an LMDB of scripts/make_faces.py; OUTPUT a TorchScript file: uint8 images (B, 3, 64, 64) to features (B, F),
which --features of scripts/evaluate.py takes, and its method ``logits`` from features to all attributes' values, one
after the other as ``sizes`` has them. It is trained on training faces alone, with a head for every visible attribute.
Kind ``a`` has four convolutions of stride 2 and 128 features, ``b`` another architecture and 160 features.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.attributes import Attributes
from glo_lightning.data.store import StoredImages


def part_rows(data: LSUNDataModule) -> dict[str, list[int]]:
    """The rows of the parts that make_faces.py writes: ``train``, ``holdout`` and ``unseen``."""
    first = [data.source.key(row)[:1] for row in range(len(data.source))]
    names = {"train": b"0", "holdout": b"1", "unseen": b"2"}
    return {name: [row for row, digit in enumerate(first) if digit == wanted] for name, wanted in names.items()}


class Judge(nn.Module):
    """A small classifier with several heads."""

    def __init__(self, kind: str, sizes: list[int]):
        super().__init__()
        self.sizes = sizes
        layers: list[nn.Module] = []
        if kind == "a":
            for before, after in ((3, 32), (32, 64), (64, 128), (128, 256)):
                layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.Flatten(), nn.Linear(256 * 4 * 4, 128), nn.ReLU()]
        else:
            layers += [nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.BatchNorm2d(24), nn.LeakyReLU(0.1)]
            for before, after in ((24, 48), (48, 96), (96, 192)):
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.LeakyReLU(0.1)]
                layers += [nn.MaxPool2d(2)]
            layers += [nn.Flatten(), nn.Linear(192 * 4 * 4, 160), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.heads = nn.Linear(layers[-2].out_features, sum(sizes))  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        return self.layers((images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last))

    @torch.jit.export
    def logits(self, features: Tensor) -> Tensor:
        return self.heads(features)


def train_judge(images: Tensor, table: Tensor, sizes: list[int], kind: str, seed: int, epochs: int = 8) -> Judge:
    """A judge of uint8 images (N, 3, H, W), whose attributes' values are ``table`` (N, A)."""
    torch.manual_seed(seed)
    judge = Judge(kind, sizes)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=1e-2)
    steps = epochs * -(-len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(128):
            heads = judge.logits(judge(images[rows])).split(sizes, dim=1)
            loss = sum(F.cross_entropy(head, table[rows, number]) for number, head in enumerate(heads))
            optimizer.zero_grad()
            torch.as_tensor(loss).backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


@torch.no_grad()
def judged(judge: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
    """What a judge sees in features (B, F): values (B, A) and how sure it is of each (B, A)."""
    logits = judge.logits(features.to(next(judge.parameters()).device)).cpu()  # type: ignore[operator]
    heads = logits.split(list(judge.sizes), dim=1)  # type: ignore[arg-type]
    found = [head.softmax(1).max(1) for head in heads]
    return torch.stack([part.indices for part in found], 1), torch.stack([part.values for part in found], 1)


@torch.no_grad()
def accuracies(judge: nn.Module, images: Tensor, attributes: Attributes, rows: list[int]) -> dict[str, float]:
    features = torch.cat([judge(some) for some in images[rows].split(256)])
    right = (judged(judge, features)[0] == attributes.table[rows]).float().mean(0)
    return dict(zip(attributes.values, right.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", help="an LMDB of scripts/make_faces.py")
    parser.add_argument("output", type=Path, help="the TorchScript file to write")
    parser.add_argument("--kind", default="a", choices=["a", "b"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = LSUNDataModule(arguments.faces)
    attributes, dataset, parts = data.attributes, data.dataset, part_rows(data)
    assert attributes is not None
    assert isinstance(dataset, StoredImages)
    images = dataset.images
    rows = parts["train"]
    judge = train_judge(images[rows], attributes.table[rows], attributes.sizes, arguments.kind, arguments.seed)
    print(f"| accuracy of judge {arguments.kind}{arguments.seed} | {' | '.join(attributes.values)} |")
    print(f"|---|{'---|' * len(attributes.values)}")
    for part in ("holdout", "unseen"):
        if parts[part]:
            found = accuracies(judge, images, attributes, parts[part][:4000])
            print(f"| {part} | {' | '.join(f'{value:.1%}' for value in found.values())} |", flush=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script.*")  # torch 2.15 would have torch.export
        torch.jit.script(judge).save(arguments.output)


if __name__ == "__main__":
    main()
