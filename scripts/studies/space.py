"""Measures what a run on faces has learned, by a judge: python scripts/studies/space.py RUN --judge FILE [--json FILE]

RUN was trained on the training faces of an LMDB of scripts/make_faces.py; FILE is made by judge.py. The reference are
the training faces, and each row has 10,000 images: held-out faces are the first 10,000, or, by --held_out 1, the next.

- Priors: Frechet distance, precision and recall; how many samples the judge is sure of, in head, face and skin, at 0.9
  of its mean confidence on real faces; how many lie nearer to a training face, in features and in pixels, than all but
  5 % of held-out faces, over 5 %; how often the pairs of head and face that were kept out of training turn up, over
  the rate that they have among all faces; seconds of the fit.
- Ways between codes, see ``glo_lightning.explore.space.way_metrics``.
- Codes of held-out faces: PSNR, linear probes beside PCA and pixels, arithmetic on attributes.
- Samples that are given attributes.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from changes import Change, through_noise, wanted_less_present, with_less_without
from judge import judged, part_rows
from torch import Tensor, nn

from glo_lightning.data import LSUNDataModule
from glo_lightning.data.attributes import Attributes
from glo_lightning.data.store import StoredImages
from glo_lightning.errors import InputError
from glo_lightning.explore.evaluation import extract, feature_metrics, frechet, generate, load_features
from glo_lightning.explore.fitted import fit_prior
from glo_lightning.explore.flow import Flow
from glo_lightning.explore.flow_way import through
from glo_lightning.explore.paths import Way, lerp, slerp
from glo_lightning.explore.priors import PRIORS, make_prior, sample_codes
from glo_lightning.explore.space import nearest_distances, probe, way_metrics
from glo_lightning.files import write_text
from glo_lightning.images import from_uint8, psnr, to_uint8
from glo_lightning.latents import as_rows, fit_pca
from glo_lightning.module import GLO

SURE = ("head", "face", "skin")
STRENGTHS = (0.75, 1.0, 1.5, 2.0, 2.5, 3.0)
PAIRED = (0.75, 1.0, 1.1, 1.2, 1.35, 1.5)
COVERED = {"mask": {"face", "beard"}, "glasses": {"face"}, "beard": {"face", "contrast"}}  # what an attribute hides


class Space:
    """A trained model, its faces, and what a judge sees in them.

    Args:
        model: in eval mode, trained on the training faces alone.
        data: all faces, none held out.
        judge: see judge.py.
        held_out: which 10,000 of the held-out faces.
        num: images in each row.
    """

    def __init__(self, model: GLO, data: LSUNDataModule, judge: nn.Module, held_out: int = 0, num: int = 10_000):
        assert data.attributes is not None
        assert isinstance(data.dataset, StoredImages)
        self.model, self.judge, self.num = model, judge, num
        self.attributes: Attributes = data.attributes
        self.names = list(self.attributes.values)
        parts, images = part_rows(data), data.dataset.images
        self.rows = parts["holdout"][held_out * num : (held_out + 1) * num]
        self.unseen_rows = parts["unseen"][held_out * 1000 : (held_out + 1) * 1000]
        self.codes = model.latents.weight.detach()
        self.training, self.real, self.unseen = images[: len(self.codes)], images[self.rows], images[self.unseen_rows]
        self.all_images = images
        pairs = self._pairs(self.attributes.table)
        seen, others = pairs[: len(self.codes)].unique(), pairs[parts["unseen"]].unique()
        self.kept_out = others[~torch.isin(others, seen)]
        self.natural = len(self.kept_out) / (self.attributes.sizes[0] * self.attributes.sizes[1])
        self.reference, self.of_real = extract(self.training, judge), extract(self.real, judge)
        self.sure = judged(judge, self.of_real)[1].mean(0) * 0.9

    def of(self, model: GLO) -> Space:
        """The same faces and judge for another model, trained on as many of them or on the first ones."""
        other = copy.copy(self)
        other.model, other.codes = model, model.latents.weight.detach()
        return other

    @functools.cached_property
    def near(self) -> list[Tensor]:
        """How far held-out faces are from the nearest training face, in features and in pixels."""
        return [self._nearest(self.of_real, self.real, in_pixels) for in_pixels in (False, True)]

    def generate(self, codes: Tensor) -> Tensor:
        return to_uint8(generate(self.model, codes)).cpu()

    def _nearest(self, features: Tensor, images: Tensor, in_pixels: bool) -> Tensor:
        """The distance of the first 2,000 to the nearest training face."""
        if in_pixels:
            return nearest_distances(as_rows(images[:2000]), as_rows(self.training))
        return nearest_distances(features[:2000], self.reference)

    def describe(self, images: Tensor, memorised: bool = True) -> dict[str, float]:
        """What the judge says of images (B, 3, H, W), uint8."""
        features = extract(images, self.judge)
        values, confidence = judged(self.judge, features)
        wanted = [self.names.index(name) for name in SURE]
        found = feature_metrics(features, self.reference)
        found["sure"] = float((confidence[:, wanted] >= self.sure[wanted]).all(1).float().mean())
        if memorised:
            for name, in_pixels in (("near_features", False), ("near_pixels", True)):
                near = self._nearest(features, images, in_pixels)
                found[name] = float((near < self.near[in_pixels].quantile(0.05)).float().mean()) / 0.05
        found["unseen_pairs"] = float(torch.isin(self._pairs(values), self.kept_out).float().mean()) / self.natural
        return found

    def _pairs(self, values: Tensor) -> Tensor:
        """A number for each pair of head and face."""
        head, face = self.names.index("head"), self.names.index("face")
        return values[:, head] * self.attributes.sizes[face] + values[:, face]

    def priors(self, names: list[str]) -> dict[str, dict[str, float]]:
        """A row for real faces, reconstructions, and samples of each prior."""
        picked = self.codes[torch.randperm(len(self.codes), generator=torch.Generator().manual_seed(0))[: self.num]]
        rows = {"held-out faces": self.describe(self.real), "unseen combinations": self.describe(self.unseen, False)}
        rows["reconstructions"] = self.describe(self.generate(picked), False)
        for name in names:
            began = time.monotonic()
            prior = self.fit(name)
            seconds = time.monotonic() - began
            drawn = sample_codes(prior, self.codes, self.num, self.model.project)
            rows[name] = self.describe(self.generate(drawn)) | {"seconds": seconds}
        return rows

    def fit(self, name: str) -> Any:
        prior = make_prior(name)
        if isinstance(prior, Flow):
            table = self.attributes.table[: len(self.codes)]
            return prior.fit(self.codes, table, self.attributes.sizes)
        return fit_prior(prior, self.codes)

    def ways(self, flow: Flow, num: int = 4096) -> dict[str, dict[str, float]]:
        ways: dict[str, Way] = {"arc": slerp, "line": lerp, "flow": through(flow)}
        found = way_metrics(
            ways, self.model, self.codes, self.model.project, self.training, self.judge, min(num, len(self.codes))
        )
        found["held-out faces"] = {"nearest": float(nearest_distances(self.of_real[:4096], self.reference).median())}
        return found

    def held_out_codes(self, images: Tensor, steps: int) -> tuple[Tensor, float]:
        """Codes of images (M, 3, H, W), uint8, and the PSNR that they reach."""
        wanted = from_uint8(images.to(self.model.device))
        codes = self.model.encode(wanted, self.training[: len(self.codes)], ["pca"], steps=steps)
        return codes, float(psnr(generate(self.model, codes), wanted))

    def probes(self, codes: Tensor, held_out: Sequence[int]) -> dict[str, dict[str, float]]:
        """Accuracies of linear probes on codes (M, D) of held-out faces' rows, beside PCA codes and small pixels."""
        rows = torch.tensor(held_out[: len(codes)])
        images = self.all_images[rows]
        mean, axes = fit_pca(as_rows(self.training), codes.shape[1])
        small = [nn.functional.avg_pool2d(some.float(), 4).flatten(1) for some in (self.training, images)]
        pca = [(as_rows(some) - mean) @ axes for some in (self.training, images)]
        kinds = {"codes": (self.codes.cpu(), codes.cpu()), "PCA codes": pca, "pixels, 16x16": small}
        return {name: probe(known, asked, self.attributes, rows) for name, (known, asked) in kinds.items()}

    def arithmetic(
        self, codes: Tensor, change: Change | None = None, picked: int = 500, strengths: Sequence[float] = STRENGTHS
    ) -> dict[str, dict[str, float]]:
        """Giving held-out codes another attribute: how often it appears, how often the others stay.

        By ``with_less_without``, if no other change is given. One strength for all is chosen on ``picked`` training
        codes. Beside it, how often the judge sees the attribute in reconstructions of training faces that have it.
        """
        change = change or with_less_without(self.codes, self.attributes.table[: len(self.codes)])
        goals: dict[str, tuple[int, list[int]]] = {}  # title -> attribute, the values that are wanted
        for name in ("glasses", "beard", "skin", "clothes", "background"):
            values = self.attributes.values[name]
            if "" in values:
                goals[name] = self.names.index(name), [number for number, value in enumerate(values) if value]
            else:
                goals |= {f"{name}={value}": (self.names.index(name), [n]) for n, value in enumerate(values)}
        chosen = self.codes[torch.randperm(len(self.codes), generator=torch.Generator().manual_seed(1))[:picked]]
        tried = {s: self._changed(chosen, goals, change, s) for s in strengths}
        best = max(tried, key=lambda s: sum(min(r["appears"], r["stays"]) for r in tried[s].values()))
        found = self._changed(codes, goals, change, best)
        for title, goal in goals.items():
            found[title]["reconstructions"] = self.seen(*goal)
        return {"strength": {"strength": best}, **found}

    def seen(self, column: int, wanted: list[int]) -> float:
        """In how many reconstructions of training faces that have a wanted value, 1,000 at most, the judge sees one."""
        has = torch.isin(self.attributes.table[: len(self.codes), column], torch.tensor(wanted)).nonzero()[:1000, 0]
        values, _ = judged(self.judge, extract(self.generate(self.codes[has]), self.judge))
        return float(torch.isin(values[:, column], torch.tensor(wanted)).float().mean())

    def _changed(self, codes: Tensor, goals: dict, change: Change, strength: float) -> dict[str, dict[str, float]]:
        before, _ = judged(self.judge, extract(self.generate(codes), self.judge))
        found = {}
        for title, (column, wanted) in goals.items():
            lacking = ~torch.isin(before[:, column], torch.tensor(wanted))
            made = self.model.project(change(codes[lacking], before[lacking, column], column, wanted, strength))
            after, _ = judged(self.judge, extract(self.generate(made), self.judge))
            appears = float(torch.isin(after[:, column], torch.tensor(wanted)).float().mean())
            hidden = COVERED.get(title, set())
            others = [n for n, name in enumerate(self.names) if n != column and name not in hidden]
            stays = (after == before[lacking])[:, others].float().mean(0)
            found[title] = {"appears": appears, "stays": float(stays.mean()), "worst": float(stays.min())}
        return found

    def conditional(self, flow: Flow, given: list[str], guidance: float, num: int = 1000) -> dict[str, float]:
        """Samples given attributes: how often the judge sees them, their distance to real faces that have them."""
        numbers = self.attributes.numbers(given)
        asked = (numbers >= 0).nonzero()[:, 0]
        drawn = sample_codes(flow, self.codes, num, self.model.project, 0, 1.0, numbers, guidance)
        features = extract(self.generate(drawn), self.judge)
        seen = (judged(self.judge, features)[0][:, asked] == numbers[asked]).all(1).float().mean()
        has = self.attributes.rows(given)
        training, real = has[has < len(self.codes)], has[has >= len(self.codes)]
        of_real = extract(self.all_images[real], self.judge)
        own = (judged(self.judge, of_real)[0][:, asked] == numbers[asked]).all(1).float().mean()
        found = {"training": len(training), "real": len(real), "seen": float(seen), "judge": float(own)}
        few = min(len(training), len(real), num)
        if few >= 100:
            made = extract(self.generate(self.codes[training[:few]]), self.judge)
            found |= {"frechet": frechet(features[:few], of_real), "reconstructions": frechet(made, of_real)}
        return found

    @torch.no_grad()
    def psnr(self) -> float:
        """Of the training faces' reconstructions, over the first 4,096."""
        made = from_uint8(self.generate(self.codes[:4096]))
        return float(psnr(made, from_uint8(self.training[:4096])))


def table(title: str, rows: dict[str, dict[str, float]], digits: int = 3) -> str:
    """Markdown: a row for each key, a column for each measure."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [f"| {title} | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{row[c]:.{digits}f}' if c in row else '' for c in columns)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder or a checkpoint")
    parser.add_argument("--faces", required=True, help="the LMDB of faces")
    parser.add_argument("--judge", required=True, help="a file of judge.py")
    parser.add_argument("--held_out", type=int, default=0, choices=[0, 1], help="which 10,000 held-out faces")
    parser.add_argument("--num", type=int, default=10_000, help="images in each row")
    parser.add_argument("--num_encoded", type=int, default=500, help="faces to encode; of other kinds 500 at most")
    parser.add_argument("--steps", type=int, default=100, help="of encoding")
    parser.add_argument("--priors", nargs="+", default=list(PRIORS))
    parser.add_argument("--given", nargs="+", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    parser.add_argument("--change_by_flow", action="store_true", help="gives attributes through its noise too")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = "cuda" if arguments.accelerator == "gpu" else "cpu"
    checkpoint = arguments.run / "checkpoints" / "last.ckpt" if arguments.run.is_dir() else arguments.run
    model = GLO.load_from_checkpoint(checkpoint, map_location="cpu").to(device).eval().requires_grad_(False)
    judge = load_features(arguments.judge).to(device)
    space = Space(model, LSUNDataModule(arguments.faces), judge, arguments.held_out, arguments.num)
    results: dict[str, Any] = {"psnr": space.psnr()}
    print(f"training PSNR {results['psnr']:.2f} dB\n", flush=True)

    def show(name: str, rows: dict[str, dict[str, float]]) -> None:
        results[name] = rows
        print(table(name, rows) + "\n", flush=True)

    show("priors", space.priors(arguments.priors))
    flow = space.fit("flow")
    train_density, held_density = (flow.log_density(c).mean() for c in (space.codes[:1000], space.codes[-1000:]))
    results["log_density"] = {"first": float(train_density), "last": float(held_density)}
    show("ways", space.ways(flow))
    if arguments.num_encoded:
        codes, reached = space.held_out_codes(space.real[: arguments.num_encoded], arguments.steps)
        few = min(arguments.num_encoded, 500)
        unseen_codes, unseen = space.held_out_codes(space.unseen[:few], arguments.steps)
        anew, _ = space.held_out_codes(space.training[:few], arguments.steps)
        density = {"training": float(train_density), "training, encoded anew": float(flow.log_density(anew).mean())}
        density["held-out"] = float(flow.log_density(codes).mean())
        density["unseen combinations"] = float(flow.log_density(unseen_codes).mean())
        show("held-out", {"PSNR": {"random": reached, "unseen combinations": unseen}, "log-density": density})
        show("probes", space.probes(codes, space.rows))
        show("probes, unseen combinations", space.probes(unseen_codes, space.unseen_rows))
        show("arithmetic, with less without", space.arithmetic(codes))
        pairs = wanted_less_present(space.codes, space.attributes.table[: len(space.codes)])
        changed = space.arithmetic(codes, pairs, strengths=PAIRED)
        show("arithmetic, wanted less present", changed)
        strengths = (changed["strength"]["strength"],)
        show("arithmetic, unseen combinations", space.arithmetic(unseen_codes, pairs, strengths=strengths))
        if arguments.change_by_flow:
            by_flow = space.arithmetic(codes, through_noise(flow), 100, (1.0, 1.5, 2.0, 3.0))
            show("arithmetic, through the flow's noise", by_flow)
    given = {}
    for asked in arguments.given:
        for guidance in arguments.guidance:
            try:
                given[f"{' '.join(asked)}, guidance {guidance:g}"] = space.conditional(flow, asked, guidance)
            except InputError as error:
                parser.error(str(error))
    if given:
        show("given", given)
    if arguments.json:
        write_text(arguments.json.absolute(), json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
