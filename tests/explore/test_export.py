import json
import pkgutil
import resource
import shutil

import pytest
import torch
from programs import call, refusal

from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import InputError
from glo_lightning.explore.export import export_run, load_export
from glo_lightning.module import GLO

safetensors_torch = pytest.importorskip("safetensors.torch")


@pytest.fixture
def export(tiny_run, tmp_path):
    """An export of a run, by the script."""
    assert call("export", tiny_run, tmp_path / "new" / "export")[0] == 0
    return tmp_path / "new" / "export"


def test_an_export_gives_the_images_the_codes_and_the_keys_back(export, tiny_run):
    model = GLO.load_from_checkpoint(tiny_run / "checkpoints" / "last.ckpt").eval()
    loaded, keys = load_export(export)
    assert torch.equal(loaded.latents.weight, model.latents.weight)
    assert torch.equal(loaded.eval()(loaded.latents.weight), model(model.latents.weight))
    source = LSUNDataModule(num_samples=24).source
    assert keys == [source.key(row) for row in range(16)]


def test_an_export_is_of_use_without_lightning(export):
    about = json.loads((export / "glo.json").read_text())
    arguments = {key: about["hyper_parameters"][key] for key in ("latent_dim", "image_size", "channels")}
    arguments |= about["hyper_parameters"]["generator"]["init_args"]
    generator = pkgutil.resolve_name(about["generator"]["class"])(**arguments)
    generator.load_state_dict(safetensors_torch.load_file(export / "generator.safetensors"))
    codes = safetensors_torch.load_file(export / "codes.safetensors")["codes"]
    assert generator.eval()(codes[:2]).shape == (2, 3, 32, 32)
    assert about["preprocessing"]["range"] == [-1, 1]


def test_wrong_input_is_named(export, tiny_run, tmp_path):
    for run, output, word in (
        (tiny_run, export, "exists already"),
        (tmp_path, tmp_path / "b", "contains no run"),
        (tmp_path / "none", tmp_path / "b", "no such folder"),
        (tiny_run / "none.ckpt", tmp_path / "b", "no such checkpoint"),
    ):
        assert word in refusal("export", run, output)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    with pytest.raises(InputError, match="no export"):
        load_export(tmp_path)


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny_run, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot be written"):
            export_run(tiny_run, tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_another_databases_keys_are_not_exported(tiny_run, tmp_path):
    config = shutil.copytree(tiny_run, tmp_path / "run") / "config.yaml"
    config.write_text(config.read_text().replace("num_samples: 24", "num_samples: 23"))
    refusal("export", tmp_path / "run", tmp_path / "b")
    assert not (tmp_path / "b").exists()
