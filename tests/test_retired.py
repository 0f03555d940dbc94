"""Runs of glo_lightning 0.1.0, made before its options were retired, still load, repeat and resume."""

import logging
import shutil

import pytest
import torch
import yaml
from conftest import REPOSITORY, load

from glo_lightning import GLO, load_run
from glo_lightning.errors import InputError
from glo_lightning.retired import current_config

OLD = REPOSITORY / "tests" / "fixtures" / "old_runs"  # each stopped after 4 of its 6 steps
EMOJI = REPOSITORY / "tests" / "fixtures" / "emoji"  # the first 64 that scripts/studies/emoji.py makes


@pytest.fixture
def old(tmp_path):
    """old("cut"): a copy of that run folder."""
    return lambda name: shutil.copytree(OLD / name, tmp_path / name)


@pytest.mark.parametrize("name", ["cut", "l2"])
def test_an_old_run_goes_on_to_the_end_that_the_old_program_reached(run, old, name, caplog):
    folder = old(name)
    with caplog.at_level(logging.INFO, "glo_lightning"):
        assert run("--resume", folder, "--data.root", EMOJI) == (0, "")
    end = torch.load(OLD / name / "end.ckpt", weights_only=True)
    expected, resumed = end["state_dict"], load(folder)
    torch.testing.assert_close(resumed["initial_codes"], expected.pop("start"), atol=1e-5, rtol=1e-4)
    assert resumed["state_dict"].keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(resumed["state_dict"][key], value, atol=1e-4, rtol=1e-3)
    assert resumed["global_step"] == end["global_step"] == 6
    assert "left out latent_from 0.0, start_rows 16384" in caplog.text


def test_an_old_configuration_repeats_with_arguments_that_its_loss_did_not_use(run, tmp_path):
    old = yaml.safe_load((OLD / "l2" / "config.yaml").read_text())["model"]
    assert (old["loss"], old["levels"], old["l2_weight"]) == ("l2", 3, 0.0)
    assert run("--config", OLD / "l2" / "config.yaml", "--data.root", EMOJI, "--output", tmp_path / "again") == (0, "")
    expected = torch.load(OLD / "l2" / "end.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(
        load(tmp_path / "again")["state_dict"]["latents.weight"], expected["latents.weight"], atol=1e-4, rtol=1e-3
    )
    config = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())["model"]
    assert (config["levels"], config["l2_weight"]) == (None, None)
    status, line = run("--config", OLD / "l2" / "config.yaml", "--model.levels=7", "--output", tmp_path / "b")
    assert (status, line.split(":")[0]) == (2, "--model.levels 7")


def test_a_run_by_a_retired_algorithm_loads_and_is_not_resumed(run, old, tmp_path):
    folder = old("adam")
    saved = load(folder)
    trained = load_run(folder, "cpu", EMOJI)
    assert torch.equal(trained.model.latents.weight, saved["state_dict"]["latents.weight"])
    assert torch.equal(trained.initial, saved["state_dict"]["start"])
    assert trained.images([0, 1]).shape == (2, 3, 32, 32)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    assert GLO.load_from_checkpoint(checkpoint).hparams.latent_optimizer == "sgd"
    for flags, named in (
        (("--resume", folder), f"--resume {folder}"),
        (("--config", folder / "config.yaml"), f"--config {folder / 'config.yaml'}"),
        (("--model.latent_dim=2", "--ckpt_path", checkpoint), f"--ckpt_path {checkpoint}"),
    ):
        flags += ("--data.root", EMOJI) if flags[0] == "--resume" else ("--output", tmp_path / "new")
        status, line = run(*flags)
        assert status == 2
        assert line.startswith(f"{named}: was made with latent_from 0.3")
        assert "glo_lightning 0.1.0" in line
    assert not (tmp_path / "new").exists()
    assert load(folder)["global_step"] == 4


def test_old_spellings_are_read_from_files():
    old = {"on_nonfinite": "skip", "checkpoint": {"on_error": "skip", "every_n_steps": 3}, "data": {"on_error": "skip"}}
    new = {"on_bad_loss": "skip", "checkpoint": {"on_bad_write": "skip", "every_n_steps": 3}}
    assert current_config(old) == new | {"data": {"on_bad_record": "skip"}}
    assert current_config(new) == new
    assert old["data"] == {"on_error": "skip"}


def test_old_spellings_in_a_configuration_are_heard(run, tmp_path):
    config = yaml.safe_load((OLD / "cut" / "config.yaml").read_text())
    config["on_nonfinite"] = config["checkpoint"]["on_error"] = config["data"]["on_error"] = "skip"
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(config))
    assert run("--config", tmp_path / "old.yaml", "--max_epochs=1") == (0, "")
    written = yaml.safe_load((tmp_path / "runs" / "old" / "version_0" / "config.yaml").read_text())
    assert written["on_bad_loss"] == written["checkpoint"]["on_bad_write"] == written["data"]["on_bad_record"] == "skip"
    assert not {"start_rows", "latent_from"} & written["model"].keys()


def test_a_run_on_the_emoji_loads_and_samples_and_says_how_to_make_what_it_lacks(run, old):
    folder = old("cut")
    remedy = "python scripts/studies/emoji.py DIR and give --data.root DIR"
    status, line = run("--resume", folder)
    assert (status, line.startswith(f"--resume {folder}: was trained on the emoji"), remedy in line) == (2, True, True)
    assert load(folder)["global_step"] == 4
    with pytest.raises(InputError, match=r"emoji\.py DIR and give --data\.root DIR"):
        load_run(folder, "cpu").images([0])
    assert load_run(folder, "cpu").model(torch.zeros(2, 2)).shape == (2, 3, 32, 32)


def test_on_the_emoji_made_anew_an_old_run_knows_its_images(old):
    images = load_run(old("cut"), "cpu", EMOJI).images(range(24))
    assert images.shape == (24, 3, 32, 32)
