"""Every command runs where only some images have labels, and directions leave out images that have none."""

import numpy as np
import pytest
import torch
from conftest import encode, flat_image, write_lmdb
from image_sets import write_folder
from programs import call, train

from glo_lightning import load_run
from glo_lightning.browser.session import Session
from glo_lightning.explore.editing import directions
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.prior import PRIORS

NUM = 40
LABELS = {  # of an image by its number, for each layout; None for an image without a line
    "one image has no line": lambda n: ["odd" if n % 2 else "even", ""] if n else None,
    "six images have lines": lambda n: ["odd" if n % 2 else "even", "big"] if n < 6 else None,
    "a value of held-out images alone": lambda n: ["odd" if n < 36 else "even", "big" if n % 3 else ""],
    "one image has a line": lambda n: ["odd", "big"] if n == 3 else None,
    "some files are in class folders": lambda n: None,
}
COMMANDS = ["sample --num 3 --output made.png", "walk --axes 1 --output made.png"]
COMMANDS += ["arithmetic --a 0 --b 1 --c 2 --output made.png", "interpolate 0 7 --steps 3 --output made.png"]
COMMANDS += ["projector --output shown", "evaluate --starts mean --steps 1 --json made.json"]


def make_images(folder, layout):
    if layout == "some files are in class folders":
        return write_folder(folder, [f"odd/{n}.png" if n % 3 == 1 else f"{n}.png" for n in range(NUM)])
    write_lmdb(folder, {b"%02d" % n: encode(flat_image(n)) for n in range(NUM)})
    lines = [",".join([f"{n:02d}", *LABELS[layout](n)]) for n in range(NUM) if LABELS[layout](n)]
    (folder / "attributes.csv").write_text("\n".join(["key,parity,size", *lines]))
    return folder


@pytest.fixture(scope="module", params=LABELS)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("partly")
    images = make_images(folder / "images", request.param)
    flags = ("--data.root", images, f"--data.num_samples={NUM}", "--data.holdout=4", "--max_epochs=1")
    return train(folder / "run", *flags, "--data.image_size=16")


def test_every_command_runs(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRIORS, "flow", lambda: Flow(steps=20, width=8, blocks=1))
    monkeypatch.setattr("glo_lightning.priors.flow.MIN_CODES", 20)
    commands = list(COMMANDS)
    moves = [name for name in directions(load_run(run, "cpu"), 1) if "=" in name]
    commands += [f"walk --image 0 --move {name}:1 --output made.png" for name in moves]
    commands += ["sample --prior flow --num 3 --output made.png"]
    for command in commands:
        name, *arguments = command.split()
        status, _, errors = call(name, run, "--accelerator=cpu", *arguments, "--overwrite")
        assert status == 0, (command, errors)


def test_the_page_shows_and_finds_what_is_labelled(run):
    loaded = load_run(run, "cpu")
    session = Session(loaded, run)
    assert set(directions(loaded, 1)) <= set(session.directions)
    for name, values in loaded.data.attributes.values.items():
        for value in values:
            rows = loaded.rows_with([f"{name}={value}"]).tolist()
            assert all(f"{name}={value}" in session.image(row)["attributes"] for row in rows if value)


def test_a_direction_leads_from_other_values_to_this_one(run):
    loaded = load_run(run, "cpu")
    attributes, codes = loaded.data.attributes, loaded.codes.numpy()
    expected = {}
    for column, (name, values) in enumerate(attributes.values.items()):
        numbers = attributes.table[: len(codes), column].numpy()
        for number, value in enumerate(values):
            with_value, others = codes[numbers == number], codes[(numbers != number) & (numbers != -1)]
            if len(with_value) and len(others):
                expected[f"{name}={value}"] = with_value.mean(0) - others.mean(0)
    found = {name: direction for name, direction in directions(loaded, 1).items() if "=" in name}
    assert found.keys() == expected.keys()
    for name, direction in found.items():
        np.testing.assert_allclose(direction, expected[name], atol=1e-5)
    assert torch.isfinite(torch.stack([*directions(loaded, 2).values()])).all()
