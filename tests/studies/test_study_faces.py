"""scripts/studies/judge.py, space.py and levers.py on a hundred drawn images whose attributes are known."""

import csv
import io
import json
import runpy
import sys
from contextlib import redirect_stdout

import lmdb
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, encode
from judge import Judge, accuracies, judged, part_rows, train_judge
from space import Space

from glo_lightning.data import LSUNDataModule
from glo_lightning.explore.flow import Flow
from glo_lightning.explore.priors import PRIORS
from glo_lightning.module import GLO

PARTS = {"0": 80, "1": 30, "2": 8}  # of the training, held out, of combinations that training lacks
COLOURS = {"red": 0, "green": 1, "blue": 2}

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*", "ignore:.*does not have many workers.*", "ignore:.*will be smaller than.*"
)


def describe(random: np.random.Generator, part: str) -> dict[str, str]:
    """Head and face are never the same colour, but in the last part, where they always are."""
    head, face = random.choice(list(COLOURS), 2, replace=False)
    glasses, beard = (str(random.choice(["", value])) for value in ("round", "full"))
    like = {name: str(random.choice(list(COLOURS))) for name in ("skin", "clothes", "background")}
    return {"head": head, "face": head if part == "2" else face, "glasses": glasses, "beard": beard, "mask": "", **like}


def draw(face: dict[str, str]) -> np.ndarray:
    """Each attribute has a place of its own, eight pixels high."""
    pixels = np.full((64, 64, 3), 40, np.uint8)
    for number, value in enumerate(face.values()):
        pixels[8 * number : 8 * number + 8, :, COLOURS.get(value, 0)] = 230 if value else 40
    return pixels


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces") / "faces"
    folder.mkdir()
    random, lines = np.random.default_rng(0), []
    with lmdb.open(str(folder), map_size=1 << 28) as environment, environment.begin(write=True) as transaction:
        for part, num in PARTS.items():
            for number in range(num):
                key, face = f"{part}{number:07x}", describe(random, part)
                transaction.put(key.encode(), encode(draw(face)))
                lines.append({"key": key, **face})
    with open(folder / "attributes.csv", "w", newline="") as file:
        rows = csv.DictWriter(file, list(lines[0]))
        rows.writeheader()
        rows.writerows(lines)
    return folder


@pytest.fixture(scope="module")
def data(faces):
    return LSUNDataModule(faces)


@pytest.fixture(scope="module")
def judge(data):
    rows = part_rows(data)["train"]
    return train_judge(data.dataset.images[rows], data.attributes.table[rows], data.attributes.sizes, "a", 0, epochs=25)


@pytest.fixture
def small_flow(monkeypatch):
    monkeypatch.setitem(PRIORS, "flow", lambda: Flow(steps=20, width=8, blocks=1))
    monkeypatch.setattr("glo_lightning.explore.flow.FEWEST", 20)


def called(name: str, *arguments: object) -> str:
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(str(REPOSITORY / "scripts" / "studies" / f"{name}.py"), run_name="__main__")
    return said.getvalue()


def test_the_parts_are_told_by_key(data):
    assert {part: len(rows) for part, rows in part_rows(data).items()} == dict(
        zip(("train", "holdout", "unseen"), PARTS.values(), strict=True)
    )


def test_a_judge_tells_attributes_of_faces_that_it_was_not_shown(data, judge):
    found = accuracies(judge, data.dataset.images, data.attributes, part_rows(data)["holdout"])
    assert min(found.values()) > 0.85
    assert found["mask"] == 1  # a single value


def test_both_kinds_of_judge_say_how_sure_they_are(data):
    for kind in "ab":
        other = Judge(kind, data.attributes.sizes).eval()
        values, confidence = judged(other, other(data.dataset.images[:4]))
        assert values.shape == confidence.shape == (4, len(data.attributes.sizes))
        assert ((confidence > 0) & (confidence <= 1 + 1e-6)).all()


def test_real_faces_are_near_themselves_and_combine_nothing_new(data, judge):
    space = Space(GLO(80, latent_dim=4, width=2).eval().requires_grad_(False), data, judge, num=30)
    training = space.describe(space.training)
    assert training["frechet"] == pytest.approx(0, abs=1e-3)
    assert training["unseen_pairs"] < 0.5  # where the judge errs
    assert training["near_features"] > 5  # all of them, but for those as near as a held-out face
    assert space.natural == pytest.approx(3 / 9)  # the same colour twice
    assert space.describe(space.unseen)["unseen_pairs"] > 2


def test_an_attribute_is_seen_in_reconstructions_as_often_as_these_show_it(data, judge):
    space = Space(GLO(80, latent_dim=4, width=2).eval().requires_grad_(False), data, judge, num=30)
    glasses = space.names.index("glasses")
    has = space.attributes.table[:80, glasses] == 1
    space.generate = lambda codes: space.training[has]
    assert space.seen(glasses, [1]) > 0.9
    space.generate = lambda codes: space.training[~has]
    assert space.seen(glasses, [1]) < 0.1


def test_the_studies_print_what_their_json_holds(faces, judge, small_flow, tmp_path):
    torch.jit.script(judge).save(tmp_path / "judge.pt")
    small = ("--num", 30, "--judge", tmp_path / "judge.pt", "--json", tmp_path / "made.json")
    said = called("levers", faces, "--only", "bias", "--epochs", 1, "--width", 2, "--encoded", 3, *small)
    found = json.loads((tmp_path / "made.json").read_text())
    assert list(found) == ["bias"]
    assert f"| bias | {found['bias'][0]['PSNR']:.2f} |" in said
    assert {"rec.", "flow", "half-way, line", "half-way, flow", "largest step"} <= found["bias"][0].keys()

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        from glo_lightning.cli import main

        flags = ("--data.holdout=38", "--model.latent_dim=4", "--model.width=2", "--max_epochs=1", "--prior=null")
        patch.setattr(sys, "argv", ["train.py", "--data.root", str(faces), *flags, "--output", str(run)])
        with redirect_stdout(io.StringIO()):
            main(REPOSITORY / "configs" / "quickstart.yaml")
    said = called(
        "space", run, "--faces", faces, "--priors", "gaussian", "flow", "--num_encoded", 4, "--steps", 2,
        "--given", "glasses=round", "--guidance", 1, "--change_by_flow", *small,
    )  # fmt: skip
    found = json.loads((tmp_path / "made.json").read_text())
    assert set(found["priors"]) == {
        "held-out faces", "unseen combinations", "reconstructions", "gaussian", "flow"
    }  # fmt: skip
    assert f"| gaussian | {found['priors']['gaussian']['frechet']:.3f} |" in said
    assert set(found["ways"]) == {"arc", "line", "flow", "fade", "snap", "held-out faces"}
    for kind in ("probes", "probes, unseen combinations"):
        assert set(found[kind]) == {"codes", "PCA codes", "pixels, 16x16"}
    for kind in ("with less without", "wanted less present", "unseen combinations", "through the flow's noise"):
        assert {"glasses", "beard", "skin=red", "background=blue"} <= found[f"arithmetic, {kind}"].keys()
        assert {"appears", "stays", "worst", "reconstructions"} == found[f"arithmetic, {kind}"]["beard"].keys()
    assert found["given"]["glasses=round, guidance 1"]["training"] > 20
