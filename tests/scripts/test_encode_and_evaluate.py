import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encode, flat_image, write_lmdb
from PIL import Image
from programs import call, refusal
from sklearn.decomposition import PCA
from torchmetrics.image import PeakSignalNoiseRatio

from glo_lightning.commands.encode import report_unlike
from glo_lightning.commands.evaluate import report
from glo_lightning.errors import InputError
from glo_lightning.explore.trained_run import TrainedRun
from glo_lightning.files import whole_folder
from glo_lightning.images import from_uint8 as to_unit_range


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode(flat_image(20000 * number, 40)))
    return folder


def test_encode_writes_codes_that_give_the_reconstructions(tiny_run, pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"no image")
    status, output, _ = call("encode", tiny_run, pictures, "--output", tmp_path / "out", "--steps", 10)
    assert status == 0
    assert "broken.png: not an image" in output
    assert "skipped 1 of 4" in output
    run = TrainedRun(tiny_run, "cpu")
    codes = torch.from_numpy(np.load(tmp_path / "out" / "codes.npy"))
    assert codes.shape == (3, 6)
    images = torch.stack([torch.from_numpy(flat_image(20000 * n, 32)) for n in range(3)]).permute(0, 3, 1, 2)
    generated, images = run.model(codes) / 2 + 0.5, to_unit_range(images) / 2 + 0.5
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["psnr"] == pytest.approx(float(PeakSignalNoiseRatio(data_range=1.0)(generated, images)), abs=0.01)
    for n in range(3):
        psnr = float(PeakSignalNoiseRatio(data_range=1.0)(generated[n : n + 1], images[n : n + 1]))
        assert metrics["images"][n]["psnr"] == pytest.approx(psnr, abs=0.01)
        assert f"{n}.png: PSNR {psnr:.2f} dB" in output
    pca = PCA(6).fit(run.images(range(16)).flatten(1) / 255)  # which has all training images, and as many dimensions
    by_pca = pca.inverse_transform(pca.transform(images.flatten(1))).clip(0, 1)
    by_pca = torch.from_numpy(by_pca).view_as(images).float()
    expected = float(PeakSignalNoiseRatio(data_range=1.0)(by_pca, images))
    assert metrics["pca_psnr"] == pytest.approx(expected, abs=0.01)
    assert f"all 3 images: PSNR {metrics['psnr']:.2f} dB; by PCA with as many dimensions {expected:.2f} dB" in output
    for name in ("targets", "reconstructions"):
        with Image.open(tmp_path / "out" / f"{name}.png") as grid:
            assert grid.size == (3 * 34 + 2, 36)


def test_images_may_stand_after_the_flags(tiny_run, pictures, tmp_path):
    flags = ("--accelerator", "cpu", "--steps", 1, "--starts", "mean", "--output", tmp_path / "out", "--overwrite")
    assert call("encode", tiny_run, *flags, pictures)[0] == 0
    assert call("encode", *flags[:-3], tiny_run, pictures)[0] == 2  # --starts takes what follows it
    assert call("encode", tiny_run, pictures, *flags)[0] == 0


def test_encode_takes_an_lmdb_and_a_mask(tiny_run, tmp_path):
    records = write_lmdb(tmp_path / "lmdb", {b"%d" % n: encode(flat_image(20000 * n, 40)) for n in range(2)})
    mask = np.full((32, 32), 255, np.uint8)
    mask[:, 16:] = 0
    (tmp_path / "mask.png").write_bytes(encode(mask))
    arguments = ("--mask", tmp_path / "mask.png", "--output", tmp_path / "out", "--steps", 10)
    status, said, _ = call("encode", tiny_run, records, *arguments)
    assert status == 0
    assert said.count(" dB of the pixels that are not missing\n") == 3  # of two images and of both
    targets, generated, filled = (
        np.asarray(Image.open(tmp_path / "out" / f"{name}.png")).astype(int)[2:34, 2:34]
        for name in ("targets", "reconstructions", "filled")
    )
    assert (targets[:, 16:] == 255).all()
    assert (filled[:, :16] == targets[:, :16]).all()
    assert (filled[:, 16:] == generated[:, 16:]).all()


def test_an_image_that_no_training_image_is_like_is_told(capsys):
    report_unlike(["near.png", "far.png"], torch.tensor([24.0, 15.5]), torch.tensor([30.0, 25.0, 28.0]))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("far.png: unlike the training images")
    assert "15.5 dB" in line
    assert "25.0 or more on the first 3" in line


@pytest.mark.parametrize(("measured", "why"), [((), "none are held out"), (("holdout",), "the images have none")])
def test_evaluate_says_why_rows_are_missing(measured, why, capsys):
    row = {"images": 1, "psnr": 1.0, "ssim": 1.0, "loss": 1.0}
    report(dict.fromkeys(("train", *measured), row), argparse.Namespace(starts=["pca"], loss=None, steps=1))
    assert why in capsys.readouterr().out


def test_evaluate_reports_what_the_json_holds(tiny_run, tmp_path):
    arguments = ("--json", tmp_path / "e.json", "--steps", 10, "--features", "test_metrics.Means")
    status, output, _ = call("evaluate", tiny_run, *arguments)
    assert status == 0
    results = json.loads((tmp_path / "e.json").read_text())
    run = TrainedRun(tiny_run, "cpu")
    images = to_unit_range(run.images(range(16))) / 2 + 0.5
    expected = PeakSignalNoiseRatio(data_range=1.0)(run.model(run.model.latents.weight) / 2 + 0.5, images)
    assert results["train_all"]["psnr"] == pytest.approx(float(expected), abs=0.01)
    assert results["train"]["images"] == results["holdout"]["images"] == 8
    for name in ("train", "train_encoded", "holdout", "pca_train", "pca_holdout", "train_all"):
        assert f"| {results[name]['psnr']:.2f} | {results[name]['ssim']:.3f} |" in output
    moved = (run.model.latents.weight - run.initial).norm(dim=1).mean()
    assert results["latents"]["moved"] == pytest.approx(float(moved))
    assert set(results["features"]) == {
        *("samples, gaussian", "samples, mixture", "reconstructions", "middles of nearest codes (iFID)")
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(tiny_run):
    assert refusal("evaluate", tiny_run, "--accelerator", "gpu").startswith("--accelerator gpu")


def test_a_run_that_is_none_is_named(tmp_path):
    assert "contains no run" in refusal("evaluate", tmp_path)
    (tmp_path / "a.ckpt").write_bytes(b"nothing")
    for path in ("a.ckpt", "b.ckpt"):
        assert path in refusal("evaluate", tmp_path / path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt"]


def test_other_images_than_the_checkpoints_are_refused(tiny_run, tmp_path):
    config = shutil.copytree(tiny_run, tmp_path / "copy") / "config.yaml"
    config.write_text(config.read_text().replace("num_samples: 24", "num_samples: 25"))
    assert "the checkpoint's rows belong to other images" in refusal("evaluate", tmp_path / "copy")


def test_a_checkpoint_alone_has_no_images(tiny_run, tmp_path):
    shutil.copy(tiny_run / "checkpoints" / "last.ckpt", tmp_path / "alone.ckpt")
    run = TrainedRun(tmp_path / "alone.ckpt", "cpu")
    assert run.model(run.model.latents.weight[:2]).shape == (2, 3, 32, 32)
    with pytest.raises(InputError, match=r"config\.yaml"):
        _ = run.data


@pytest.mark.parametrize("wrong", ["size", "black", "none", "text"])
def test_a_wrong_mask_is_named(tiny_run, pictures, tmp_path, wrong):
    mask = tmp_path / "mask.png"
    if wrong == "text":
        mask.write_text("no image")
    elif wrong != "none":
        mask.write_bytes(encode(np.zeros((32, 32) if wrong == "black" else (31, 32), np.uint8)))
    line = refusal("encode", tiny_run, pictures, "--mask", mask, "--output", tmp_path / "out")
    assert line.startswith(f"--mask {mask}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["empty", "missing.png"])
def test_images_that_are_none_are_named(tiny_run, tmp_path, name):
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / name) in refusal("encode", tiny_run, tmp_path / name, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_overwritten_unasked(tiny_run, pictures, tmp_path):
    output = tmp_path / "out"
    command = ("encode", tiny_run, pictures, "--output", output, "--steps", 5)
    assert call(*command)[0] == 0
    before = contents(output)
    assert "--overwrite" in refusal(*command)
    assert contents(output) == before
    (output / "codes.npy").write_bytes(b"")
    assert call(*command, "--overwrite")[0] == 0
    assert contents(output)[output / "codes.npy"] == before[output / "codes.npy"]


@pytest.fixture(scope="module")
def place(tiny_run, tmp_path_factory):
    """A run, photographs, folders that hold other files than a command wrote, and a link to one."""
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(tiny_run, place / "run")
    for folder, name in (("photos", "a.png"), ("others", "holiday.png")):
        (place / folder).mkdir()
        (place / folder / name).write_bytes(encode(flat_image(7, 40)))
    (place / "link").symlink_to(place / "others", target_is_directory=True)
    with whole_folder(place / "written", listed=True) as folder:
        (folder / "codes.npy").touch()
    (place / "written" / "mine.txt").write_text("mine")
    return place


OUTPUTS = ["photos", "photos/a.png", "run", "run/config.yaml", "run/checkpoints/last.ckpt", ".", "others"]
OUTPUTS += ["others/holiday.png", "link", "written"]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", ["encode", "projector", "interpolate", "evaluate"])
def test_overwrite_replaces_nothing_that_no_command_wrote(place, name, output):
    before = contents(place)
    arguments = {"encode": [place / "photos", "--steps", 1], "interpolate": [place / "photos" / "a.png", "0"]}
    flag = "--json" if name == "evaluate" else "--output"
    line = refusal(name, place / "run", *arguments.get(name, []), flag, place / output, "--overwrite")
    assert line.split(" ")[0] == flag
    assert contents(place) == before
