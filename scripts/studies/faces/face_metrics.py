"""Measures what a run on faces has learned: face_metrics.py RUN --faces FACES --classifier FILE [--json FILE]

RUN was trained on the training faces of FACES, an LMDB of scripts/make_faces.py; FILE is made by
attribute_classifier.py. Distances are to the training faces, with 10,000 images a row; the held-out faces are the first
10,000, or the next with --held_out 1.

- Samples of priors: Frechet distance, precision and recall. "sure": how many the classifier is sure of, in head, face
  and skin, at 0.9 of its mean confidence on real faces. "near": how many lie nearer to a training face than all but 5 %
  of held-out faces, over 5 %. "unseen pairs": how often pairs of head and face appear that training lacks, over their
  rate among all faces.
- Paths between codes, see ``glo_lightning.explore.path_metrics.interpolation_metrics``.
- Edits of held-out faces' attributes: the mean code of training faces that have the wanted value, less that of those
  that have the present one, is added to a code.
- Samples with conditions.

evaluate.py measures the rest: PSNR of held-out faces, and what linear probes tell from codes.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from attribute_classifier import predict, rows_by_part
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import StudyParser, markdown

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.attributes import Attributes
from glo_lightning.data.store import CachedDataset
from glo_lightning.explore.codes import generate
from glo_lightning.explore.features import extract, load_features
from glo_lightning.explore.flows import flow_path
from glo_lightning.explore.interactive import load_run
from glo_lightning.explore.metrics import feature_metrics, frechet
from glo_lightning.explore.path_metrics import interpolation_metrics, nearest_distances
from glo_lightning.explore.paths import INTERPOLATIONS
from glo_lightning.files import write_text
from glo_lightning.images import from_uint8, to_uint8
from glo_lightning.module import GLO
from glo_lightning.priors.prior import PRIORS, make_prior, sample_codes, takes_conditions

SURE = ("head", "face", "skin")
STRENGTHS = (0.75, 1.0, 1.1, 1.2, 1.35, 1.5)  # of an edit
EDITED = ("glasses", "beard", "skin", "clothes", "background")
HIDES = {"mask": {"face", "beard"}, "glasses": {"face"}, "beard": {"face", "contrast"}}  # attribute -> what it hides
Rows = dict[str, dict[str, float]]


def edit(codes: Tensor, table: Tensor, edited: Tensor, present: Tensor, column: int, wanted: list[int]) -> Tensor:
    """The direction (B, D) from an attribute's present value to the wanted one; several wanted values alternate.

    Args:
        codes: (N, D), of the training images.
        table: (N, A), the number of each attribute's value.
        edited: (B, D), the codes to change.
        present: (B,), their present values.
        column: of the attribute in the table.
        wanted: values.
    """
    one_hot = torch.nn.functional.one_hot(table[:, column]).to(codes)
    means = one_hot.T @ codes / one_hot.sum(0).clamp(min=1)[:, None]
    goals = torch.tensor(wanted)[torch.arange(len(edited)) % len(wanted)]
    return means[goals] - means[present]


class FaceMetrics:
    """A trained model, its faces, and what a classifier sees in them.

    Args:
        model: in eval mode, trained on the training faces alone.
        data: all faces, none held out.
        classifier: see attribute_classifier.py.
        held_out: which 10,000 of the held-out faces.
        num: images in each row.
    """

    def __init__(self, model: GLO, data: LSUNDataModule, classifier: nn.Module, held_out: int = 0, num: int = 10_000):
        assert data.attributes is not None
        assert isinstance(data.dataset, CachedDataset)
        self.model, self.classifier, self.num = model, classifier, num
        self.attributes: Attributes = data.attributes
        self.names = list(self.attributes.values)
        parts, self.images = rows_by_part(data), data.dataset.images
        self.codes = model.latents.weight.detach()
        self.table = self.attributes.table[: len(self.codes)]
        self.training = self.images[: len(self.codes)]
        self.real = self.images[parts["holdout"][held_out * num : (held_out + 1) * num]]
        self.unseen = self.images[parts["unseen"][held_out * 1000 : (held_out + 1) * 1000]]
        pairs = self._pairs(self.attributes.table)
        seen, others = pairs[: len(self.codes)].unique(), pairs[parts["unseen"]].unique()
        self.unseen_pairs = others[~torch.isin(others, seen)]
        self.natural = len(self.unseen_pairs) / (self.attributes.cardinalities[0] * self.attributes.cardinalities[1])
        self.reference, self.real_features = extract(self.training, classifier), extract(self.real, classifier)
        self.sure = predict(classifier, self.real_features)[1].mean(0) * 0.9
        self.fitted: dict[str, Any] = {}  # name -> prior
        self.strength: float | None = None  # of all edits

    @functools.cached_property
    def near(self) -> list[Tensor]:
        """The distance of held-out faces to the nearest training face, in features and in pixels."""
        return [self._nearest(self.real_features, self.real, in_pixels) for in_pixels in (False, True)]

    def generate(self, codes: Tensor) -> Tensor:
        return to_uint8(generate(self.model, codes)).cpu()

    def see(self, codes: Tensor) -> Tensor:
        """The values (B, A) that the classifier sees in the images of codes (B, D)."""
        return predict(self.classifier, extract(self.generate(codes), self.classifier))[0]

    def _nearest(self, features: Tensor, images: Tensor, in_pixels: bool) -> Tensor:
        """The distance of the first 2,000 to the nearest training face."""
        if in_pixels:
            return nearest_distances(from_uint8(images[:2000]).flatten(1), from_uint8(self.training).flatten(1))
        return nearest_distances(features[:2000], self.reference)

    def describe(self, images: Tensor, memorised: bool = True) -> dict[str, float]:
        """The measures of a row, of images (B, 3, H, W), uint8."""
        features = extract(images, self.classifier)
        values, confidence = predict(self.classifier, features)
        columns = [self.names.index(name) for name in SURE]
        measures = feature_metrics(features, self.reference)
        measures["sure"] = float((confidence[:, columns] >= self.sure[columns]).all(1).float().mean())
        if memorised:
            for name, in_pixels in (("near_features", False), ("near_pixels", True)):
                distances = self._nearest(features, images, in_pixels)
                measures[name] = float((distances < self.near[in_pixels].quantile(0.05)).float().mean()) / 0.05
        unseen = torch.isin(self._pairs(values), self.unseen_pairs).float().mean()
        return measures | {"unseen_pairs": float(unseen) / self.natural}

    def _pairs(self, values: Tensor) -> Tensor:
        """A number for each pair of head and face."""
        head, face = self.names.index("head"), self.names.index("face")
        return values[:, head] * self.attributes.cardinalities[face] + values[:, face]

    def priors(self, names: list[str]) -> Rows:
        """A row for real faces, reconstructions, and samples of each prior."""
        picked = self.codes[torch.randperm(len(self.codes), generator=torch.Generator().manual_seed(0))[: self.num]]
        rows = {"held-out faces": self.describe(self.real), "unseen combinations": self.describe(self.unseen, False)}
        rows["reconstructions"] = self.describe(self.generate(picked), False)
        for name in names:
            began = time.monotonic()
            prior = self.prior(name)
            seconds = time.monotonic() - began
            samples = sample_codes(prior, self.codes, self.num, self.model.project)
            rows[name] = self.describe(self.generate(samples)) | {"fit, s": seconds}
        return rows

    def prior(self, name: str) -> Any:
        """A prior fitted to the codes, once."""
        if name not in self.fitted:
            prior: Any = make_prior(name)
            labels = (self.table, self.attributes.cardinalities) if takes_conditions(prior) else ()
            prior.fit(self.codes, *labels)
            self.fitted[name] = prior
        return self.fitted[name]

    def paths(self, num: int = 4096) -> Rows:
        """A row for each interpolation; see ``interpolation_metrics``."""
        paths = INTERPOLATIONS | {"flow": flow_path(self.prior("flow"))}
        num = min(num, len(self.codes))
        rows = interpolation_metrics(
            paths, self.model, self.codes, self.model.project, self.training, self.classifier, num
        )
        nearest = nearest_distances(self.real_features[:4096], self.reference).median()
        return rows | {"held-out faces": {"nearest": float(nearest)}}

    def edits(self, codes: Tensor) -> Rows:
        """A row for each edit of codes (M, D): how often the wanted value appears and how often others stay.

        One strength for all is chosen on 500 training codes. "reconstructions" is how often the classifier sees the
        value in reconstructions of training faces that have it.
        """
        goals: dict[str, tuple[int, list[int]]] = {}  # title -> column, wanted values
        for name in EDITED:
            values, column = self.attributes.values[name], self.names.index(name)
            if "" in values:
                goals[name] = column, [number for number, value in enumerate(values) if value]
            else:
                goals |= {f"{name}={value}": (column, [number]) for number, value in enumerate(values)}
        if self.strength is None:
            chosen = self.codes[torch.randperm(len(self.codes), generator=torch.Generator().manual_seed(1))[:500]]
            trials = {strength: self._edited(chosen, goals, strength).values() for strength in STRENGTHS}
            self.strength = max(trials, key=lambda s: sum(min(row["appears"], row["stays"]) for row in trials[s]))
        rows = self._edited(codes, goals, self.strength)
        for title, goal in goals.items():
            rows[title]["reconstructions"] = self.visible(*goal)
        return {"strength": {"strength": self.strength}, **rows}

    def visible(self, column: int, wanted: list[int]) -> float:
        """How often a wanted value is seen in reconstructions of training faces that have one, 1,000 at most."""
        rows = torch.isin(self.table[:, column], torch.tensor(wanted)).nonzero()[:1000, 0]
        return float(torch.isin(self.see(self.codes[rows])[:, column], torch.tensor(wanted)).float().mean())

    def _edited(self, codes: Tensor, goals: dict[str, tuple[int, list[int]]], strength: float) -> Rows:
        before, rows = self.see(codes), {}
        for title, (column, wanted) in goals.items():
            lacking = ~torch.isin(before[:, column], torch.tensor(wanted))
            edited = codes[lacking]
            direction = edit(self.codes, self.table, edited, before[lacking, column], column, wanted)
            after = self.see(self.model.project(edited + strength * direction))
            appears = torch.isin(after[:, column], torch.tensor(wanted)).float().mean()
            hidden = HIDES.get(title, set())
            others = [n for n, name in enumerate(self.names) if n != column and name not in hidden]
            stays = (after == before[lacking])[:, others].float().mean(0)
            rows[title] = {"appears": float(appears), "stays": float(stays.mean()), "worst": float(stays.min())}
        return rows

    def conditional(self, labels: list[str], guidance: float, num: int = 1000) -> dict[str, float]:
        """Samples with labels: how often these are seen, and the distance to real faces that have them."""
        numbers = self.attributes.parse(labels)
        asked = (numbers >= 0).nonzero()[:, 0]
        flow, project = self.prior("flow"), self.model.project
        samples = self.generate(sample_codes(flow, self.codes, num, project, 0, 1.0, numbers, guidance))
        rows = self.attributes.rows(labels)
        training, real = rows[rows < len(self.codes)], rows[rows >= len(self.codes)]
        features = [extract(images, self.classifier) for images in (samples, self.images[real])]
        seen, of_real = (
            float((predict(self.classifier, some)[0][:, asked] == numbers[asked]).all(1).float().mean())
            for some in features
        )
        measures = {"training": len(training), "real": len(real), "seen": seen, "seen in real": of_real}
        few = min(len(training), len(real), num)
        if few >= 100:
            reconstructed = extract(self.generate(self.codes[training[:few]]), self.classifier)
            measures["frechet"] = frechet(features[0][:few], features[1])
            measures["reconstructions"] = frechet(reconstructed, features[1])
        return measures


def main() -> None:
    parser = StudyParser(__doc__)
    parser.add_argument("run", help="a run folder or a checkpoint")
    parser.add_argument("--faces", required=True, help="the LMDB of faces")
    parser.add_argument("--classifier", required=True, help="a file of attribute_classifier.py")
    parser.add_argument("--held_out", type=int, default=0, choices=[0, 1], help="which 10,000 held-out faces")
    parser.add_argument("--num", type=int, default=10_000, help="images in each row")
    parser.add_argument("--num_edited", type=int, default=500, help="held-out faces to edit")
    parser.add_argument("--steps", type=int, default=60, help="steps of descent for a held-out face")
    parser.add_argument("--priors", nargs="+", default=list(PRIORS), help="names, or paths of classes")
    parser.add_argument("--condition", nargs="+", action="append", default=[], metavar="NAME=VALUE", help="labels")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.5], help="of samples with conditions")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu", help="where to compute")
    parser.add_argument("--json", type=Path, help="a file for the results")
    options = parser.parse_args()
    model = load_run(options.run, options.accelerator).model
    classifier = load_features(options.classifier).to(model.device)
    faces = FaceMetrics(model, LSUNDataModule(options.faces), classifier, options.held_out, options.num)
    results: dict[str, Rows] = {}

    def show(name: str, rows: Rows) -> None:
        results[name] = rows
        print(markdown(name, rows, digits=3) + "\n", flush=True)

    show("priors", faces.priors(options.priors))
    show("paths", faces.paths(min(4096, options.num)))
    if options.num_edited:
        for name, images in {"edits": faces.real, "edits, unseen combinations": faces.unseen}.items():
            wanted = from_uint8(images[: options.num_edited].to(model.device))
            show(name, faces.edits(model.encode(wanted, faces.training, ["pca"], steps=options.steps)))
    rows = {
        f"{' '.join(labels)}, guidance {guidance:g}": faces.conditional(labels, guidance)
        for labels in options.condition
        for guidance in options.guidance
    }
    if rows:
        show("conditions", rows)
    if options.json:
        write_text(options.json.absolute(), json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
