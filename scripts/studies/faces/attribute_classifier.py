"""Trains a classifier of the faces' attributes: python scripts/studies/faces/attribute_classifier.py FACES OUTPUT

FACES is an LMDB of scripts/make_faces.py. OUTPUT is a TorchScript file that maps uint8 images (B, 3, 64, 64) to
features (B, F), as evaluate.py --features takes it; its method ``logits`` maps features to all attributes' values, one
after the other as ``sizes`` has them. It is trained on training faces alone, with a head for every visible attribute.
Kind ``a`` has four convolutions of stride 2 and 128 features, kind ``b`` pools, and has 160 features.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import StudyParser, markdown

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.attributes import Attributes
from glo_lightning.data.store import CachedDataset


def rows_by_part(data: LSUNDataModule) -> dict[str, list[int]]:
    """The rows of the parts that make_faces.py writes: ``train``, ``holdout`` and ``unseen``."""
    first = [data.source.key(row)[:1] for row in range(len(data.source))]
    names = {"train": b"0", "holdout": b"1", "unseen": b"2"}
    return {name: [row for row, digit in enumerate(first) if digit == wanted] for name, wanted in names.items()}


class AttributeClassifier(nn.Module):
    """A small convolutional network with a head for each attribute."""

    def __init__(self, kind: str, sizes: list[int]):
        super().__init__()
        self.sizes = sizes
        layers: list[nn.Module] = []
        if kind == "a":
            for before, after in ((3, 32), (32, 64), (64, 128), (128, 256)):
                layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        else:
            layers += [nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.BatchNorm2d(24), nn.LeakyReLU(0.1)]
            for before, after in ((24, 48), (48, 96), (96, 192)):
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.LeakyReLU(0.1)]
                layers += [nn.MaxPool2d(2)]
        channels, num_features = (256, 128) if kind == "a" else (192, 160)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 4 * 4, num_features), nn.ReLU())
        self.heads = nn.Linear(num_features, sum(sizes))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers((images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last))

    @torch.jit.export
    def logits(self, features: Tensor) -> Tensor:
        return self.heads(features)


def train_classifier(
    images: Tensor, table: Tensor, sizes: list[int], kind: str, seed: int, epochs: int = 8
) -> AttributeClassifier:
    """Train a classifier on uint8 images (N, 3, H, W), whose attributes' values are ``table`` (N, A)."""
    torch.manual_seed(seed)
    classifier = AttributeClassifier(kind, sizes)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=1e-2)
    steps = epochs * -(-len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(128):
            heads = classifier.logits(classifier(images[rows])).split(sizes, dim=1)
            loss = sum(F.cross_entropy(head, table[rows, number]) for number, head in enumerate(heads))
            optimizer.zero_grad()
            torch.as_tensor(loss).backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


@torch.no_grad()
def predict(classifier: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted values (B, A) of the attributes of features (B, F), and the probability of each (B, A)."""
    logits = classifier.logits(features.to(next(classifier.parameters()).device)).cpu()  # type: ignore[operator]
    heads = logits.split(list(classifier.sizes), dim=1)  # type: ignore[arg-type]
    best = [head.softmax(1).max(1) for head in heads]
    return torch.stack([head.indices for head in best], 1), torch.stack([head.values for head in best], 1)


@torch.no_grad()
def accuracies(classifier: nn.Module, images: Tensor, attributes: Attributes, rows: list[int]) -> dict[str, float]:
    """Accuracy by attribute on the images of these rows."""
    features = torch.cat([classifier(some) for some in images[rows].split(256)])
    right = (predict(classifier, features)[0] == attributes.table[rows]).float().mean(0)
    return dict(zip(attributes.values, right.tolist(), strict=True))


def main() -> None:
    parser = StudyParser(__doc__)
    parser.add_argument("faces", help="an LMDB of scripts/make_faces.py")
    parser.add_argument("output", type=Path, help="the TorchScript file to write")
    parser.add_argument("--kind", default="a", choices=["a", "b"], help="architecture")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")
    options = parser.parse_args()
    data = LSUNDataModule(options.faces)
    attributes, dataset, parts = data.attributes, data.dataset, rows_by_part(data)
    assert attributes is not None
    assert isinstance(dataset, CachedDataset)
    images, rows = dataset.images, parts["train"]
    table, sizes = attributes.table[rows], attributes.cardinalities
    classifier = train_classifier(images[rows], table, sizes, options.kind, options.seed)
    found = {
        part: accuracies(classifier, images, attributes, parts[part][:4000])
        for part in ("holdout", "unseen")
        if parts[part]
    }
    print(markdown(f"accuracy of classifier {options.kind}", found, digits=3))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script.*")  # torch 2.15 would have torch.export
        torch.jit.script(classifier).save(options.output)


if __name__ == "__main__":
    main()
