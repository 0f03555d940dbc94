import json
import runpy
import sys

import pytest
import torch
from conftest import REPOSITORY, TINY

from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import InputError
from glo_lightning.explore.export import load_export
from glo_lightning.generator import SkipGenerator
from glo_lightning.module import GLO

safetensors_torch = pytest.importorskip("safetensors.torch")


@pytest.fixture
def export(run, tmp_path, monkeypatch):
    """A run and its export, by the script."""
    assert run(*TINY, "--output", tmp_path / "run", "--max_epochs=1")[0] == 0
    script = str(REPOSITORY / "scripts" / "export.py")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path / "run"), str(tmp_path / "new" / "export")])
    runpy.run_path(script, run_name="__main__")
    return tmp_path / "new" / "export"


def test_an_export_gives_the_images_the_codes_and_the_keys_back(export, tmp_path):
    model = GLO.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt").eval()
    loaded, keys = load_export(export)
    assert torch.equal(loaded.latents.weight, model.latents.weight)
    assert torch.equal(loaded.eval()(loaded.latents.weight), model(model.latents.weight))
    source = LSUNDataModule(num_samples=24).source
    assert keys == [source.key(row) for row in range(24)]


def test_an_export_is_of_use_without_lightning(export):
    about = json.loads((export / "glo.json").read_text())
    assert about["generator"]["class"] == "glo_lightning.generator.SkipGenerator"
    arguments = {key: about["hyper_parameters"][key] for key in ("latent_dim", "image_size", "channels")}
    generator = SkipGenerator(**arguments, **about["hyper_parameters"]["generator"]["init_args"])
    generator.load_state_dict(safetensors_torch.load_file(export / "generator.safetensors"))
    codes = safetensors_torch.load_file(export / "codes.safetensors")["codes"]
    assert generator.eval()(codes[:2]).shape == (2, 3, 32, 32)
    assert about["preprocessing"]["range"] == [-1, 1]


def test_wrong_input_is_named(export, tmp_path, capsys):
    for arguments, word in (
        ((tmp_path / "run", export), "exists already"),
        ((tmp_path, tmp_path / "b"), "holds no run"),
        ((tmp_path / "run" / "none.ckpt", tmp_path / "b"), "no such checkpoint"),
    ):
        sys.argv[1:] = map(str, arguments)
        with pytest.raises(SystemExit):
            runpy.run_path(sys.argv[0], run_name="__main__")
        assert word in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "run"]
    with pytest.raises(InputError, match="no export"):
        load_export(tmp_path)


def test_another_databases_keys_are_not_exported(export, tmp_path):
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("num_samples: 24", "num_samples: 23"))
    sys.argv[1:] = [str(tmp_path / "run"), str(tmp_path / "b")]
    with pytest.raises(SystemExit):
        runpy.run_path(sys.argv[0], run_name="__main__")
