"""``name=value`` in the commands on a run whose images have attributes, and a flow small enough for its 80 codes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encode, flat_image, write_lmdb
from programs import call, codes_of, refusal, table_of, train

from glo_lightning import load_run
from glo_lightning.explore.flows import fitted_flow, parse_conditions
from glo_lightning.latents import to_ball
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.prior import PRIORS

NUM, HELD_OUT = 80, 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on 80 images; in the held-out ones after them a big one is even, and no other image is both."""
    folder = tmp_path_factory.mktemp("attributes")
    write_lmdb(folder / "lmdb", {b"%02x" % row: encode(flat_image(3 * row)) for row in range(NUM + HELD_OUT)})
    with open(folder / "lmdb" / "attributes.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "parity", "size", "rare"])
        for row in range(NUM + HELD_OUT):
            odd = row % 2 == 1
            big = odd if row < NUM else row >= NUM + 4
            rows.writerow([f"{row:02x}", "odd" if odd else "even", "big" if big else "", "yes" if row < 3 else ""])
    flags = (f"--data.num_samples={NUM + HELD_OUT}", "--max_epochs=3", f"--data.holdout={HELD_OUT}")
    return train(folder / "run", *flags, "--data.root", folder / "lmdb")


@pytest.fixture
def run(monkeypatch, tmp_path, trained):
    """That run; the current folder is an empty one, and a flow is small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRIORS, "flow", lambda: Flow(steps=60, width=16, blocks=1))
    monkeypatch.setattr("glo_lightning.priors.flow.MIN_CODES", 20)
    return trained


def test_samples_follow_their_conditions(run):
    flags = ("--prior=flow", "--num=50")
    odd = codes_of("sample", run, *flags, "--condition", "parity=odd", "size=big")
    assert not np.array_equal(codes_of("sample", run, *flags), odd)
    loaded = load_run(run, "cpu")
    conditions = parse_conditions(loaded, ["parity=odd", "size=big"])
    expected = to_ball(fitted_flow(loaded).sample(50, 0, conditions=conditions))
    np.testing.assert_allclose(odd, expected, atol=1e-6)


def odd_minus_even(table: torch.Tensor) -> torch.Tensor:
    return table[1::2].mean(0) - table[::2].mean(0)


@pytest.mark.parametrize(
    ("command", "place", "expected"),
    [
        ("arithmetic --a parity=odd --b parity=even --c 7 --strength 0.5", -1, lambda t: t[7] + odd_minus_even(t) / 2),
        ("interpolate size=big 7 --path line --steps 3", 0, lambda table: table[1::2].mean(0)),
        ("walk --image 4 --move parity=odd:0.5", 1, lambda table: table[4] + 0.5 * odd_minus_even(table)),
    ],
)
def test_a_label_is_the_mean_code_of_the_training_images_that_have_it(command, place, expected, run):
    name, *arguments = command.split()
    codes = codes_of(name, run, *arguments)
    np.testing.assert_allclose(codes[place], to_ball(expected(table_of(run))), atol=1e-6)


@pytest.mark.parametrize(
    ("command", "place", "middle"),
    [
        ("walk --axes 2", 4, lambda noise: noise.mean(0)),  # of 9 steps
        ("arithmetic --a 1 --b 2 --c 3", 3, lambda noise: noise[1] - noise[2] + noise[3]),
    ],
)
def test_walks_and_sums_in_the_noise_of_a_flow_are_decoded_by_it(run, command, place, middle):
    name, *arguments = command.split()
    codes = torch.from_numpy(codes_of(name, run, *arguments, "--path=flow"))
    loaded = load_run(run, "cpu")
    flow = fitted_flow(loaded)
    expected = to_ball(flow.decode(middle(flow.encode(loaded.codes))[None]))[0]
    torch.testing.assert_close(codes[place], expected, atol=1e-5, rtol=1e-4)


def test_held_out_images_of_new_pairs_are_reported_by_themselves(run):
    flags = ("--json=made.json", "--steps=2", "--starts", "mean", "--features=test_metrics.Means")
    status, output, errors = call("evaluate", run, *flags)
    assert status == 0, errors
    results = json.loads(Path("made.json").read_text())
    assert results["holdout"]["images"] == HELD_OUT
    assert results["holdout_new_pairs"]["images"] == 4  # even and big, odd and not
    chance = "chance: the most frequent label"
    assert set(results["probes"]) == {"codes", "PCA codes", "pixels", chance}
    assert set(results["probes"]) == set(results["neighbours"])
    assert set(results["probes"]["codes"]) == {"images", "parity", "size", "rare"}
    assert all(results["neighbours"][kind]["images"] == NUM for kind in ("codes", "PCA codes", "pixels"))
    assert results["probes"][chance]["parity"] == 0.5  # of 4 odd and 4 even held-out images
    assert f"| linear probe of {HELD_OUT} held-out images |" in output
    assert set(results["paths"]) == {"line", "arc", "fade", "nearest_code", "held-out images"}
    assert "linear probe" in output


def test_the_projector_has_the_labels(run):
    assert call("projector", run, "--num=6", "--output=shown")[0] == 0
    (table,) = Path("shown").rglob("metadata.tsv")
    header, *rows = [line.split("\t") for line in table.read_text().splitlines()]
    assert header == ["row", "parity", "size", "rare"]
    assert rows[1] == ["1", "odd", "big", "yes"]
    assert [row[1] for row in rows] == ["even", "odd"] * 3


def test_labels_go_with_the_run(trained, tmp_path):
    run = load_run(trained, "cpu", tmp_path)  # where its images are not
    assert parse_conditions(run, ["parity=odd"]).tolist() == [1, -1, -1]
    data = load_run(trained, "cpu").data
    assert run.attributes.digest() == data.attributes.digest()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("sample --condition party=odd", "--condition party=odd: there is no attribute party; did you mean parity?"),
        ("sample --condition parity=ood", "--condition parity=ood: parity has no value 'ood'; did you mean odd?"),
        ("sample --condition rare=yes", "--condition rare=yes: only 3 training images have it, 20 are needed. Give"),
        ("sample --prior gaussian --condition size=big", "--condition size=big: the prior Gaussian takes no condition"),
        (
            "sample --prior mixture --guidance 2",
            "--guidance 2.0: the prior Mixture takes no guidance. Give --prior flow.",
        ),
        ("sample --decode 1 --guidance 2", "--guidance 2.0: has no effect with --decode"),
        ("arithmetic --a parity=odd --b rare= --c hat=top", "condition hat=top: there is no attribute hat"),
    ],
)
def test_conditions_and_guidance_that_are_wrong_are_one_line(run, tmp_path, command, line):
    name, *arguments = command.split()
    assert refusal(name, run, *arguments, "--output=made.png").startswith(line)
    assert not (tmp_path / "made.png").exists()
