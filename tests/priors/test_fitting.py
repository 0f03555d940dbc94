"""A flow is saved: fitted once for the same codes, labels and arguments, and never saved in part."""

import logging
import os

import pytest
import torch

from glo_lightning.data.attributes import Attributes
from glo_lightning.priors.fitting import fit_prior
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.gaussian import Diagonal

CODES = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def fits(monkeypatch):
    """A list that has an entry for each fit of a flow."""
    done, fit = [], Flow.fit
    monkeypatch.setattr(Flow, "fit", lambda *arguments: done.append(1) or fit(*arguments))
    return done


def small(**arguments):
    return Flow(**{"steps": 5, "width": 8, "blocks": 1, **arguments})


def test_a_flow_is_fitted_once_for_the_same_codes_labels_and_arguments(tmp_path, fits):
    first = fit_prior(small(), CODES, None, tmp_path)
    again = fit_prior(small(), CODES.clone(), None, tmp_path)
    assert len(fits) == 1
    assert torch.equal(first.sample(5, 0), again.sample(5, 0))
    (file,) = (tmp_path / "priors").iterdir()
    assert all(isinstance(value, torch.Tensor) for value in torch.load(file, weights_only=True).values())
    labels = Attributes({"odd": [str(row % 2) for row in range(600)]})
    for number, (prior, codes, attributes) in enumerate(
        [(small(), CODES + 1e-3, None), (small(), CODES, labels), (small(width=16), CODES, None)], 2
    ):
        fit_prior(prior, codes, attributes, tmp_path)
        fit_prior(prior, codes, attributes, tmp_path)
        assert len(fits) == number


def test_flows_of_other_codes_are_told_of(tmp_path, caplog):
    fit_prior(small(), CODES, None, tmp_path)
    with caplog.at_level(logging.INFO, "glo_lightning"):
        fit_prior(small(), 2 * CODES, None, tmp_path)
    assert f"the flows in {tmp_path / 'priors'} were fitted to other codes, labels or arguments" in caplog.text
    assert "fitted the flow to 600 codes in" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_a_damaged_file_is_fitted_anew(tmp_path, fits, content):
    fit_prior(small(), CODES, None, tmp_path)
    (file,) = (tmp_path / "priors").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-200] if content is None else content)
    fit_prior(small(), CODES, None, tmp_path)
    assert len(fits) == 2
    fit_prior(small(), CODES, None, tmp_path)
    assert len(fits) == 2


def test_without_a_run_folder_or_one_to_write_in_it_lies_in_the_cache(tmp_path, fits, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fit_prior(small(), CODES)
    assert len(list((tmp_path / "cache" / "glo_lightning" / "priors").iterdir())) == 1
    fit_prior(small(), CODES, None, tmp_path / "run")  # finds it there
    assert len(fits) == 1
    (tmp_path / "file").write_text("")
    fit_prior(small(), 2 * CODES, None, tmp_path / "file")  # no folder can be made there
    fit_prior(small(), 2 * CODES, None, tmp_path / "file")
    assert len(fits) == 2


def test_a_fit_that_is_cut_off_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        prior = fit_prior(small(), CODES, None, tmp_path)
    assert prior.sample(3, 0).shape == (3, 3)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_what_is_fitted_in_no_time_is_not_kept(tmp_path):
    fit_prior(Diagonal(), CODES, None, tmp_path)
    assert not list(tmp_path.iterdir())
