"""scripts/studies/priors.py at its smallest."""

import runpy
import sys
import warnings

import numpy as np
from conftest import REPOSITORY

from glo_lightning.explore.flow import Flow
from glo_lightning.explore.priors import IMLE, PRIORS


def test_frechet_compares_every_prior_beside_two_floors(tmp_path, monkeypatch, capsys):
    """On 60 synthetic digits, with the little training that they allow."""
    generator = np.random.default_rng(0)
    for part, number in (("train", 60), ("t10k", 60)):
        labels = generator.integers(0, 10, number).astype(np.uint8)
        images = generator.integers(0, 200, (number, 28, 28)).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (tmp_path / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())
    monkeypatch.setitem(PRIORS, "imle", lambda: IMLE(rounds=2))
    monkeypatch.setitem(PRIORS, "flow", lambda: Flow(steps=10, width=8, blocks=1))
    monkeypatch.setattr("glo_lightning.explore.flow.FEWEST", 20)
    work = tmp_path / "work"
    arguments = (
        "--num_images=60",
        "--latent_dim=4",
        "--max_epochs=1",
        "--seeds=2",
        "--temperatures",
        "1",
        "--output",
        str(work),
    )
    monkeypatch.setattr(sys, "argv", ["priors.py", str(tmp_path), *arguments])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.15 deprecates TorchScript
        runpy.run_path(str(REPOSITORY / "scripts" / "studies" / "priors.py"), run_name="__main__")
    table = (work / "frechet.md").read_text().splitlines()
    assert [row.split(" | ")[0] for row in table[2:]] == [
        "| held-out real images",
        "| reconstructions",
        *(f"| {name}" for name in PRIORS),
    ]
    assert all(line in capsys.readouterr().out for line in table[2:3])
