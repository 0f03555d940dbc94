"""Rows whose images could not be read are left out of pictures, measures, priors and nearest neighbours.

Their codes, which were never trained, are replaced by NaN here, so that whatever uses one shows it.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encode, flat_image, write_lmdb
from PIL import Image
from programs import call, codes_of, refusal, train

from glo_lightning.browser.session import Session
from glo_lightning.explore.encoder import fit_encoder
from glo_lightning.explore.interactive import load_run
from glo_lightning.module import GLO

SKIPPED = [1, 5, 20]
VALUES = [40 + 7 * row for row in range(30)]  # the reds of the images


@pytest.fixture(scope="module", params=[True, False], ids=["cached", "streamed"])
def trained(tmp_path_factory, request):
    """A run on 26 images and four that are held out; three of the 26 are not images."""
    folder = tmp_path_factory.mktemp("skipped")
    records, random = {}, np.random.default_rng(0)
    for row in range(30):
        pixels = flat_image(VALUES[row])
        pixels[..., 2] = random.integers(0, 256, (32, 32))
        records[b"image%02d" % row] = b"hello" if row in SKIPPED else encode(pixels)
    lmdb = write_lmdb(folder / "lmdb", records)
    lines = [f"image{row:02d},{'left' if row % 2 else 'right'}" for row in range(30)]
    (lmdb / "attributes.csv").write_text("\n".join(["key,side", *lines]))
    flags = ("--data.num_samples=30", "--data.holdout=4", "--data.on_invalid_image=skip", "--log_every_n_steps=1")
    init = "pca" if request.param else "random"
    flags += (f"--data.cache={request.param}", f"--model.init={init}", "--prior=gaussian")
    return train(folder / "run", "--data.root", lmdb, *flags)


@pytest.fixture(autouse=True)
def poisoned(trained, monkeypatch, tmp_path):
    load = GLO.load_from_checkpoint

    def load_poisoned(*args, **kwargs):
        model = load(*args, **kwargs)
        model.latents.weight.data[SKIPPED] = torch.nan
        return model

    monkeypatch.setattr(GLO, "load_from_checkpoint", load_poisoned)
    monkeypatch.chdir(tmp_path)


def test_grids_show_the_other_images(trained):
    targets = np.asarray(Image.open(trained / "images" / "targets.png"))[17::34, 17::34].reshape(-1, 3)
    shown = [VALUES[row] for row in range(26) if row not in SKIPPED]
    assert targets[:, 0].tolist() == shown + [0] * (len(targets) - len(shown))
    made = np.asarray(Image.open(trained / "images" / "reconstructions_epoch_001.png"))[17::34, 17::34].reshape(-1, 3)
    assert [bool(cell.any()) for cell in made] == [True] * len(shown) + [False] * (len(made) - len(shown))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sample", ["--prior=gaussian", "--num=9"]),
        ("sample", ["--prior=mixture", "--num=9"]),
        ("sample", ["--decode", "side=left"]),
        ("interpolate", ["0", "side=left", "--sharpness=5"]),
        ("walk", ["--axes=3", "--steps=3"]),
        ("walk", ["--move", "side=left:1", "1:0.5"]),
        ("arithmetic", ["--a", "side=left", "--b", "side=right", "--c", "2"]),
    ],
)
def test_no_command_uses_their_codes(trained, name, arguments):
    assert np.isfinite(codes_of(name, trained, *arguments)).all()


def test_measures_leave_them_out(trained):
    status, output, errors = call("evaluate", trained, "--json=all.json", "--accelerator=cpu", "--steps=3")
    assert status == 0, errors
    results = json.loads(Path("all.json").read_text())
    assert [results[name]["images"] for name in ("train_all", "holdout")] == [23, 4]
    assert "nan" not in output.lower() + json.dumps(results).lower()


def test_images_are_encoded_without_them(trained):
    Path("black.png").write_bytes(encode(np.zeros((32, 32, 3), np.uint8)))
    Path("grey.png").write_bytes(encode(np.full((32, 32, 3), 99, np.uint8)))
    flags = ("--starts", "nearest", "mean", "--steps=2", "--accelerator=cpu", "--output=found")
    status, _, errors = call("encode", trained, "black.png", "grey.png", *flags)
    assert status == 0, errors
    assert np.isfinite(np.load("found/codes.npy")).all()
    run = load_run(trained, "cpu")
    encoder = fit_encoder(run.model, run.images, rows=run.rows)
    assert all(tensor.isfinite().all() for tensor in encoder.state_dict().values())


def test_the_projector_shows_the_others(trained):
    assert call("projector", trained, "--output=projected", "--accelerator=cpu")[0] == 0
    (table,) = Path("projected").rglob("tensors.tsv")
    assert len(np.loadtxt(table)) == 23
    assert np.isfinite(np.loadtxt(table)).all()


def test_naming_one_is_an_error(trained):
    for name, arguments in (("sample", ["--decode", "5"]), ("interpolate", ["0", "20"]), ("walk", ["--image=1"])):
        assert "could not be read in the training" in refusal(name, trained, *arguments, "--accelerator=cpu")


def test_the_page_does_not_show_them(trained):
    session = Session(load_run(trained, "cpu"), trained, ["--accelerator", "cpu"])
    assert sorted(session.map.rows.tolist()) == [row for row in range(26) if row not in SKIPPED]
    assert session.images.find("side=left") == [row for row in range(26) if row % 2 and row not in SKIPPED]
    assert session.images.find("image") == [row for row in range(26) if row not in SKIPPED]
    neighbours = [neighbour["row"] for neighbour in session.image(4)["neighbours"]]
    assert len(neighbours) == 8
    assert not {*SKIPPED, 4} & {*neighbours}


def test_a_prior_is_fitted_to_the_others_at_the_end_of_a_run(trained):
    picture = np.asarray(Image.open(trained / "images" / "samples_gaussian.png"))
    assert picture.any()


def test_a_resumed_run_knows_them(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    status, _, errors = call("train", "--resume", tmp_path / "run", "--max_epochs=3", "--enable_progress_bar=false")
    assert status == 0, errors
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["LSUNDataModule"]["skipped"].tolist() == SKIPPED
