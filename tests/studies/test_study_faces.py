"""scripts/studies/faces on a hundred drawn images whose attributes are known."""

import csv
import json
from functools import partial

import lmdb
import numpy as np
import pytest
import torch
from attribute_classifier import AttributeClassifier, accuracies, predict, rows_by_part, train_classifier
from conftest import encode
from face_metrics import FaceMetrics, edit
from run_study import run_study

from glo_lightning.data import LSUNDataModule
from glo_lightning.generator import Generator
from glo_lightning.module import GLO
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.prior import PRIORS

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
def classifier(data):
    rows = rows_by_part(data)["train"]
    table, sizes = data.attributes.table[rows], data.attributes.cardinalities
    return train_classifier(data.dataset.images[rows], table, sizes, "a", 0, epochs=25)


@pytest.fixture(scope="module")
def metrics(data, classifier):
    model = GLO(80, latent_dim=4, generator=partial(Generator, width=2)).eval().requires_grad_(False)
    return FaceMetrics(model, data, classifier, num=30)


@pytest.fixture
def small_flow(monkeypatch):
    monkeypatch.setitem(PRIORS, "flow", lambda: Flow(steps=20, width=8, blocks=1))
    monkeypatch.setattr("glo_lightning.priors.flow.MIN_CODES", 20)


def test_parts_are_recognised_by_key(data):
    assert [len(rows) for rows in rows_by_part(data).values()] == list(PARTS.values())


def test_a_classifier_tells_attributes_of_faces_that_it_has_not_seen(data, classifier):
    found = accuracies(classifier, data.dataset.images, data.attributes, rows_by_part(data)["holdout"])
    assert min(found.values()) > 0.85
    assert found["mask"] == 1  # a single value


@pytest.mark.parametrize("kind", ["a", "b"])
def test_a_classifier_gives_a_probability_for_each_attribute(data, kind):
    classifier = AttributeClassifier(kind, data.attributes.cardinalities).eval()
    values, confidence = predict(classifier, classifier(data.dataset.images[:4]))
    assert values.shape == confidence.shape == (4, len(data.attributes.cardinalities))
    assert ((confidence > 0) & (confidence <= 1 + 1e-6)).all()


def test_real_faces_are_near_themselves_and_combine_nothing_new(metrics):
    training = metrics.describe(metrics.training)
    assert training["frechet"] == pytest.approx(0, abs=1e-3)
    assert training["unseen_pairs"] < 0.5  # where the classifier errs
    assert training["near_features"] > 5  # all of them, but for those as near as a held-out face
    assert metrics.natural == pytest.approx(3 / 9)  # the same colour twice
    assert metrics.describe(metrics.unseen)["unseen_pairs"] > 2


def test_a_value_between_two_others_is_reached_from_both():
    """Three values in a row: what leads to the middle one from one side would lead past it from the other."""
    places = torch.arange(30) % 3
    codes = torch.stack([places.float(), torch.randn(30, generator=torch.Generator().manual_seed(0))], 1)
    table = torch.stack([torch.zeros_like(places), places], 1)
    ends, present = codes[[0, 2]], places[[0, 2]]
    torch.testing.assert_close((ends + edit(codes, table, ends, present, 1, [1]))[:, 0], torch.ones(2))


def test_the_program_prints_what_its_json_holds(run, faces, classifier, small_flow, tmp_path):
    torch.jit.script(classifier).save(tmp_path / "classifier.pt")
    flags = ("--data.holdout=38", "--model.latent_dim=4", "--model.generator.width=2", "--max_epochs=1", "--prior=null")
    assert run("--data.root", faces, *flags, "--output", tmp_path / "run")[0] == 0
    said = run_study(
        "faces/face_metrics", tmp_path / "run", "--faces", faces, "--priors", "gaussian", "flow", "--num_edited", 4,
        "--steps", 2, "--condition", "glasses=round", "--guidance", 1, "--num", 30,
        "--classifier", tmp_path / "classifier.pt", "--json", tmp_path / "made.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "made.json").read_text())
    real = {"held-out faces", "unseen combinations", "reconstructions"}
    assert set(found["priors"]) == {*real, "gaussian", "flow"}
    assert f"| gaussian | {found['priors']['gaussian']['frechet']:.3f} |" in said
    assert set(found["paths"]) == {"arc", "line", "flow", "fade", "nearest_code", "held-out faces"}
    for kind in ("edits", "edits, unseen combinations"):
        assert {"glasses", "beard", "skin=red", "background=blue"} <= found[kind].keys()
        assert {"appears", "stays", "worst", "reconstructions"} == found[kind]["beard"].keys()
    assert found["conditions"]["glasses=round, guidance 1"]["training"] > 20
