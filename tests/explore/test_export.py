import json
import pkgutil
import re
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from programs import call, codes_of, refusal
from torchmetrics.image import PeakSignalNoiseRatio

from glo_lightning.data import LSUNDataModule
from glo_lightning.errors import InputError
from glo_lightning.explore.export import export_run, push_export
from glo_lightning.explore.exported import load_export
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.images import from_uint8, to_unit
from glo_lightning.module import GLO
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.prior import make_prior

safetensors_torch = pytest.importorskip("safetensors.torch")


@pytest.fixture
def export(tiny_run, tmp_path):
    """An export of a run, by the script."""
    assert call("export", tiny_run, tmp_path / "new" / "export")[0] == 0
    return tmp_path / "new" / "export"


def test_an_export_gives_the_images_the_codes_and_the_keys_back(export, tiny_run):
    model = GLO.load_from_checkpoint(tiny_run / "checkpoints" / "last.ckpt").eval()
    loaded, keys, _ = load_export(export, GLO)
    assert torch.equal(loaded.latents.weight, model.latents.weight)
    assert torch.equal(loaded.eval()(loaded.latents.weight), model(model.latents.weight))
    source = LSUNDataModule(num_samples=24).source
    assert keys == [source.key(row) for row in range(16)]


def test_an_export_is_of_use_without_lightning(export):
    about = json.loads((export / "config.json").read_text())
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
        load_export(tmp_path, GLO)


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


def test_an_export_is_a_run_for_every_command(export, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, *arguments in (("sample", "--num=4", "--prior=gaussian"), ("interpolate", 0, 5), ("walk", "--axes=2")):
        of_run, of_export = (codes_of(name, run, *arguments) for run in (tiny_run, export))
        assert np.array_equal(of_run, of_export)
    status, output, _ = call("evaluate", export, "--num=4", "--steps=2", "--json=e.json")
    assert status == 0
    assert "| held-out images, encoded | 4 |" in output


def test_a_pretrained_model_is_a_folder(export, tiny_run):
    model = GLO.load_from_checkpoint(tiny_run / "checkpoints" / "last.ckpt").eval()
    loaded = GLO.from_pretrained(str(export)).eval()
    assert torch.equal(loaded(loaded.latents.weight), model(model.latents.weight))


def test_half_precision_is_half_the_size_and_nearly_the_same_images(export, tiny_run, tmp_path):
    assert call("export", tiny_run, tmp_path / "half", "--half")[0] == 0
    whole, half = (GLO.from_pretrained(str(folder)).eval() for folder in (export, tmp_path / "half"))
    sizes = [(folder / "generator.safetensors").stat().st_size for folder in (export, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    assert torch.equal(whole.latents.weight, half.latents.weight)
    assert (whole(whole.latents.weight) - half(half.latents.weight)).abs().max() < 0.02


def test_the_card_has_figures_pictures_and_the_lines_that_use_it(export, tiny_run):
    card = (export / "README.md").read_text()
    run = TrainedRun(tiny_run, "cpu")
    images = from_uint8(run.images(range(16)))
    expected = float(PeakSignalNoiseRatio(data_range=1.0)(to_unit(run.model(run.codes)), to_unit(images)))
    measured = float(re.search(r"PSNR of 16 training images \| ([\d.]+) dB", card)[1])
    assert measured == pytest.approx(expected, abs=0.01)
    assert "CC0" in card
    assert "latent_dim: 6" in card
    for name in ("pictures/reconstructions.png", "pictures/samples.png"):
        assert f"({name})" in card
        assert (export / name).is_file()
    lines = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1].replace('"export"', f'"{export}"')
    names = {}
    exec(lines, names)
    assert names["images"].shape == (8, 3, 32, 32)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in of the Hub: repositories are folders."""
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="pip install -e '.[hub]'")

    class Api:
        def create_repo(self, repository, private, exist_ok):
            (tmp_path / "hub" / repository).mkdir(parents=True, exist_ok=exist_ok)

        def upload_folder(self, repo_id, folder_path, allow_patterns):
            names = [str(file.relative_to(folder_path)) for file in Path(folder_path).rglob("*") if file.is_file()]
            for name in huggingface_hub.utils.filter_repo_objects(names, allow_patterns=allow_patterns):
                target = tmp_path / "hub" / repo_id / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(folder_path, name), target)
            return str(tmp_path / "hub" / repo_id)

    def download(repository):
        if not (tmp_path / "hub" / repository).is_dir():
            raise huggingface_hub.errors.RepositoryNotFoundError(
                "404: no such repository", response=SimpleNamespace(headers={}, request=None)
            )
        return str(tmp_path / "hub" / repository)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


def test_a_pushed_model_comes_back_from_the_hub(hub, tiny_run, tmp_path):
    assert call("export", tiny_run, tmp_path / "export", "--push", "somebody/faces")[0] == 0
    here, there = (GLO.from_pretrained(name) for name in (str(tmp_path / "export"), "somebody/faces"))
    assert torch.equal(here.latents.weight, there.latents.weight)


def test_a_push_that_failed_can_be_repeated(hub, tiny_run, tmp_path, monkeypatch):
    command = ("export", tiny_run, tmp_path / "export", "--push", "somebody/faces")
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: 1 / 0)
        assert "repeat the command" in refusal(*command)
    (tmp_path / "export" / "README.md").write_text("completed by hand")
    (tmp_path / "export" / "explore").mkdir()
    (tmp_path / "export" / "explore" / "me.png").write_text("a picture that a command made of it")
    assert call(*command)[0] == 0
    assert (tmp_path / "hub" / "somebody" / "faces" / "README.md").read_text() == "completed by hand"
    assert not (tmp_path / "hub" / "somebody" / "faces" / "explore").exists()
    assert "is no export of this run as it is now" in refusal(*command, "--half")
    damaged = bytearray((tmp_path / "export" / "codes.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "export" / "codes.safetensors").write_bytes(damaged)
    assert "is no export of this run as it is now" in refusal(*command)


def test_a_lost_connection_to_the_hub_is_one_line(hub, export, monkeypatch):
    class ConnectError(Exception):
        """httpx's is no OSError either."""

    def fail(*_, **__):
        raise ConnectError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fail)
    with pytest.raises(InputError, match=r"push somebody/faces: .*\(no route to host\)\. .* is complete"):
        push_export(export, "somebody/faces")


def test_what_is_no_model_is_named(hub, export, tiny_run, tmp_path):
    with pytest.raises(InputError, match="somebody/else"):
        GLO.from_pretrained("somebody/else")
    (tmp_path / "hub" / "some" / "llm").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds no export \(no config.json\)"):
        GLO.from_pretrained("some/llm")
    (export / "codes.safetensors").unlink()
    with pytest.raises(InputError, match=r"codes.safetensors"):
        GLO.from_pretrained(str(export))
    assert "is no repository" in refusal("export", tiny_run, tmp_path / "b", "--push", "faces")
    assert not (tmp_path / "b").exists()


def test_the_flow_goes_with_the_export_whatever_its_width(faces_run, tmp_path, monkeypatch):
    """Nothing is fitted again, and the samples are the run's, up to half precision."""
    monkeypatch.setattr("glo_lightning.priors.flow.MIN_CODES", 50)
    run = TrainedRun(shutil.copytree(faces_run, tmp_path / "run"), "cpu")
    fitted = run.fit_prior(Flow(steps=5, width=16, blocks=1))
    export_run(tmp_path / "run", tmp_path / "export", half=True)
    monkeypatch.setattr(Flow, "fit", lambda *_: pytest.fail("fitted again"))
    loaded = TrainedRun(tmp_path / "export", "cpu").fit_prior(make_prior("flow"))
    assert torch.allclose(loaded.sample(4, 0), fitted.sample(4, 0), atol=0.02)
