"""--prior: samples once the run is finished, which change nothing of the run."""

import os
import signal

import pytest
from conftest import TINY, events, load, same_state

from glo_lightning.explore.export import export_run
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.gaussian import Gaussian
from glo_lightning.priors.prior import PRIORS, make_prior
from glo_lightning.priors.velocity import SpatialVelocity

FLAGS = (*TINY, "--data.num_samples=40", "--max_epochs=2")


@pytest.fixture
def small_flow(monkeypatch):
    """A flow small enough for 40 codes."""
    monkeypatch.setitem(PRIORS, "flow", lambda: Flow(steps=20, width=8, blocks=1))
    monkeypatch.setattr("glo_lightning.priors.flow.MIN_CODES", 20)


def shown(folder):
    """The number of pictures under each tag with a slash."""
    tags = events(folder).Tags()["images"]
    return {tag: len(events(folder).Images(tag)) for tag in tags if "/" in tag}


def test_samples_of_the_prior_follow_the_last_checkpoint_and_change_nothing(run, small_flow, tmp_path):
    assert run(*FLAGS, "--prior=null", "--output", tmp_path / "without") == (0, "")
    assert run(*FLAGS, "--prior=flow", "--output", tmp_path / "with") == (0, "")
    assert same_state(tmp_path / "without", tmp_path / "with")
    assert not (tmp_path / "without" / "images" / "samples_flow.png").exists()
    assert (tmp_path / "with" / "images" / "samples_flow.png").exists()
    assert len(list((tmp_path / "with" / "priors").iterdir())) == 1
    assert shown(tmp_path / "with") == {"samples/flow": 1}


def test_codes_with_places_have_a_flow_that_knows_them_also_where_the_run_is_exported(
    run, small_flow, tmp_path, monkeypatch
):
    pytest.importorskip("safetensors.torch")
    spatial = ("--model.generator=SpatialGenerator", "--model.generator.width=4", "--model.latent_dim=32")
    assert run(*FLAGS, *spatial, "--model.generator.side=4", "--prior=flow", "--output", tmp_path / "run") == (0, "")
    export_run(tmp_path / "run", tmp_path / "export")
    monkeypatch.setattr(Flow, "fit", lambda *_: pytest.fail("it is there"))
    for folder in ("run", "export"):
        loaded = TrainedRun(tmp_path / folder, "cpu")
        assert isinstance(loaded.fit_prior(make_prior("flow")).network, SpatialVelocity)


def test_resuming_a_finished_run_fits_what_is_missing_and_nothing_else(run, small_flow, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run(*FLAGS, "--prior=flow", "--output", folder)
    picture = folder / "images" / "samples_flow.png"
    before, codes = picture.stat().st_mtime_ns, load(folder)
    monkeypatch.setattr(Flow, "fit", lambda *_: pytest.fail("it is there"))
    assert run("--resume", folder) == (0, "")
    assert picture.stat().st_mtime_ns == before
    picture.unlink()
    assert run("--resume", folder) == (0, "")  # from the flow that was kept
    assert picture.exists()
    assert run("--resume", folder, "--prior=gaussian") == (0, "")
    assert (folder / "images" / "samples_gaussian.png").exists()
    assert load(folder)["global_step"] == codes["global_step"]


def test_a_longer_run_has_new_samples(run, small_flow, tmp_path):
    run(*FLAGS, "--prior=flow", "--output", tmp_path / "run")
    before = (tmp_path / "run" / "images" / "samples_flow.png").read_bytes()
    assert run("--resume", tmp_path / "run", "--max_epochs=3") == (0, "")
    assert (tmp_path / "run" / "images" / "samples_flow.png").read_bytes() != before
    assert len(list((tmp_path / "run" / "priors").iterdir())) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_fit_ends_the_run_at_once(run, small_flow, tmp_path, monkeypatch, number):
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    with monkeypatch.context() as patch:
        patch.setattr(Flow, "fit", lambda *_: os.kill(os.getpid(), number) or pytest.fail("it went on"))
        status, line = run(*FLAGS, "--prior=flow", "--output", tmp_path / "run")
    assert status == 128 + number
    assert line.startswith("Stopped after the last step. The run is finished; ")
    assert line.endswith(f"--resume {tmp_path / 'run'} fits the prior.")
    assert not list((tmp_path / "run").glob("priors/*"))
    assert {n: signal.getsignal(n) for n in handlers} == handlers
    assert run("--resume", tmp_path / "run") == (0, "")
    assert (tmp_path / "run" / "images" / "samples_flow.png").exists()


def test_codes_too_few_for_the_prior_are_a_line_and_no_failure(run, tmp_path, capsys):
    assert run(*FLAGS, "--prior=flow", "--output", tmp_path / "run") == (0, "")
    assert not (tmp_path / "run" / "images" / "samples_flow.png").exists()


def test_a_prior_that_does_not_exist_is_refused_at_the_start(run, tmp_path):
    status, line = run(*FLAGS, "--prior=flaw", "--output", tmp_path / "run")
    assert (status, line.split(":")[0]) == (2, "--prior flaw")
    assert not (tmp_path / "run").exists()


def test_a_prior_of_ones_own_is_given_by_class_path(run, tmp_path):
    path = f"{Gaussian.__module__}.{Gaussian.__name__}"
    assert run(*FLAGS, "--prior", path, "--output", tmp_path / "run") == (0, "")
    assert (tmp_path / "run" / "images" / "samples_Gaussian.png").exists()
