"""``name=value`` in the commands on a run whose images have attributes, and a flow small enough for its 80 codes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encode, flat_image, write_lmdb
from programs import call, train

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
def script(monkeypatch, tmp_path, trained):
    """script("sample --num 3") -> (exit status, standard output, the last line of standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRIORS, "flow", lambda: Flow(steps=60, width=16, blocks=1))
    monkeypatch.setattr("glo_lightning.priors.flow.MIN_CODES", 20)

    def script(line: str) -> tuple[int, str, str]:
        name, *arguments = line.split()
        status, output, errors = call(name, trained, "--accelerator=cpu", *arguments)
        return status, output, "".join(errors[-1:])

    return script


def test_samples_follow_what_is_given(script, trained):
    def codes(*arguments: str) -> np.ndarray:
        flags = "--prior=flow --num=200 --output=made.png --codes=made.npy --overwrite"
        assert script(" ".join(["sample", flags, *arguments]))[0] == 0
        return np.load("made.npy")

    free, odd = codes(), codes("--condition", "parity=odd", "size=big")
    assert not np.array_equal(free, odd)
    run = load_run(trained, "cpu")
    conditions = parse_conditions(run, ["parity=odd", "size=big"])
    expected = to_ball(fitted_flow(run).sample(200, 0, conditions=conditions))
    np.testing.assert_allclose(odd, expected, atol=1e-6)


def test_an_attribute_is_the_mean_code_of_the_training_images_that_have_it(script, trained):
    table = load_run(trained, "cpu").model.latents.weight
    flags = "--output=made.png --codes=made.npy --overwrite"
    assert script(f"arithmetic --a parity=odd --b parity=even --c 7 --strength 0.5 {flags}")[0] == 0
    odd, even = table[1::2].mean(0), table[::2].mean(0)
    np.testing.assert_allclose(np.load("made.npy")[-1], to_ball(0.5 * (odd - even) + table[7]), atol=1e-6)
    assert script(f"interpolate size=big 7 --path line --steps 3 {flags}")[0] == 0
    np.testing.assert_allclose(np.load("made.npy")[0], to_ball(odd), atol=1e-6)


@pytest.mark.parametrize("command", ["walk --axes 2", "arithmetic --a 1 --b 2 --c 3"])
def test_walks_and_sums_in_the_noise_of_a_flow_are_decoded_by_it(script, trained, command):
    assert script(f"{command} --path flow --output=made.png --codes=made.npy")[0] == 0
    run = load_run(trained, "cpu")
    flow, table, codes = fitted_flow(run), run.codes, torch.from_numpy(np.load("made.npy"))
    noise = flow.encode(table)
    middle = noise.mean(0) if command.startswith("walk") else noise[1] - noise[2] + noise[3]
    number = 4 if command.startswith("walk") else 3  # of 9 steps; of a, b, c and their sum
    torch.testing.assert_close(codes[number], to_ball(flow.decode(middle[None]))[0], atol=1e-5, rtol=1e-4)


def test_held_out_images_of_new_pairs_are_reported_by_themselves(script):
    status, output, _ = script("evaluate --json=made.json --steps=2 --starts mean --features=test_metrics.Means")
    assert status == 0
    results = json.loads(Path("made.json").read_text())
    assert results["holdout"]["images"] == HELD_OUT
    assert results["holdout_new_pairs"]["images"] == 4  # even and big, odd and not
    assert set(results["probes"]) == {"codes", "PCA codes", "pixels"}
    assert set(results["probes"]) == set(results["neighbours"])
    assert set(results["probes"]["codes"]) == {"images", "parity", "size", "rare"}
    assert all(results["neighbours"][kind]["images"] == NUM for kind in ("codes", "PCA codes", "pixels"))
    assert set(results["paths"]) == {"line", "arc", "fade", "nearest_code", "held-out images"}
    assert "linear probe" in output


def test_the_projector_has_the_labels(script, trained):
    assert script("projector --num=6 --output=shown")[0] == 0
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
        ("sample --guidance 2", "--guidance 2.0: the prior Mixture takes no guidance"),
        ("sample --decode 1 --guidance 2", "--guidance 2.0: draws codes, but --decode has them"),
        ("arithmetic --a parity=odd --b rare= --c hat=top", "condition hat=top: there is no attribute hat"),
    ],
)
def test_attributes_that_cannot_be_had_are_one_line(script, tmp_path, command, line):
    status, _, error = script(f"{command} --output=made.png")
    assert (status, error[: len(line)]) == (2, line)
    assert not (tmp_path / "made.png").exists()


def test_a_code_is_moved_along_an_attribute_by_the_difference_of_the_means(script, trained):
    assert script("walk --image 4 --move parity=odd:0.5 --output=made.png --codes=made.npy")[0] == 0
    table = load_run(trained, "cpu").model.latents.weight
    expected = table[4] + 0.5 * (table[1::2].mean(0) - table[0::2].mean(0))
    np.testing.assert_allclose(np.load("made.npy")[1], to_ball(expected), atol=1e-6)
