"""scripts/sample.py, interpolate.py, walk.py, arithmetic.py and projector.py on a tiny run."""

import shutil

import numpy as np
import pytest
import torch
from conftest import encode, flat_image
from PIL import Image
from programs import call, stands_in, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from glo_lightning.explore.paths import principal_axes
from glo_lightning.latents import to_ball
from glo_lightning.module import GLO

RUNS = {"tiny": (), "few": ("--model.latent_dim=30", "--model.init=random")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, flat_lmdb):
    """Run folders by name: ``tiny``, of 24 codes of 6 dimensions, and ``few``, of 24 codes of 30."""
    folder = tmp_path_factory.mktemp("runs")
    for name, flags in RUNS.items():
        train(folder / name, *flags, "--max_epochs=10", "--data.root", flat_lmdb)
    return folder


@pytest.fixture
def script(monkeypatch, tmp_path, trained):
    """script("sample", ...) -> (exit status, lines on stdout, lines on stderr), on the tiny run by default."""
    monkeypatch.chdir(tmp_path)

    def script(name: str, *arguments: object, run=trained / "tiny") -> tuple[int, list[str], list[str]]:
        status, output, errors = call(name, run, "--accelerator=cpu", *arguments)
        return status, output.splitlines(), errors

    return script


def model_of(folder):
    return GLO.load_from_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True).eval()


COMMANDS = {
    "sample": (("--num=5",), 5),
    "interpolate": ((0, 1, "photo.png", 2, "--steps=3", "--path", "line", "arc"), 12),
    "walk": (("--axes=2", "--steps=3", "--image=4"), 6),
    "arithmetic": (("--a", 0, 1, "--b", 2, "--c", "photo.png"), 4),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_writes_a_picture_and_codes_and_shows_them_in_tensorboard(name, script, trained, tmp_path):
    arguments, number = COMMANDS[name]
    (tmp_path / "photo.png").write_bytes(encode(flat_image(77, size=50)))
    run = shutil.copytree(trained / "tiny", tmp_path / "run")
    outputs = ("--output", "made.png", "--codes", "made.npy", "--tensorboard")
    status, said, errors = script(name, *arguments, *outputs, run=run)
    assert (status, errors) == (0, [])
    assert [line for line in said if line.startswith("wrote")] == ["wrote made.png", "wrote made.npy"]
    with Image.open("made.png") as picture:
        assert picture.format == "PNG"
        shown = np.asarray(picture)
    codes = np.load("made.npy")
    assert codes.shape == (number, 6)
    assert np.linalg.norm(codes, axis=1).max() <= 1 + 1e-6
    # every generated image stands in the picture, enlarged to 64 pixels
    images = model_of(run)(torch.from_numpy(codes)).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for image in images:
        assert stands_in(shown, image)
        assert not stands_in(shown, 255 - image)
    accumulator = EventAccumulator(str(run), size_guidance={"images": 0})
    accumulator.Reload()
    assert [tag for tag in accumulator.Tags()["images"] if tag.startswith("explore/")]

    before = (tmp_path / "made.png").read_bytes()
    status, _, errors = script(name, *arguments, "--output", "made.png", run=run)
    assert status == 2
    assert errors == ["--output made.png: exists. Give --overwrite to replace it, or another name."]
    assert script(name, *arguments, "--output", "other.png", "--codes", "made.npy", run=run)[0] == 2
    assert not (tmp_path / "other.png").exists()
    assert (tmp_path / "made.png").read_bytes() == before
    assert script(name, *arguments, "--output", "made.png", "--overwrite", run=run)[0] == 0
    (tmp_path / "fresh.npy.json").write_text('{"a": "table of mine"}')  # which the codes' own file would replace
    for path, why in (("fresh.npy", "fresh.npy.json: exists"), ("made.png", "is given for two outputs")):
        status, _, errors = script(name, *arguments, "--output=made.png", "--codes", path, "--overwrite", run=run)
        assert (status, why in errors[0]) == (2, True)
    assert (tmp_path / "fresh.npy.json").read_text() == '{"a": "table of mine"}'


def test_interpolations_start_at_the_rows_given(script, trained):
    script("interpolate", 3, 9, "--steps=4", "--path", "arc", "line", "--output=made.png", "--codes=made.npy")
    codes = np.load("made.npy").reshape(2, 4, 6)
    table = model_of(trained / "tiny").latents.weight.detach()
    for path in codes:
        np.testing.assert_allclose(path[[0, -1]], table[[3, 9]], atol=1e-6)


def test_interpolation_tells_how_sharp_it_is_half_way(script):
    _, said, _ = script("interpolate", 3, 9, "--path", "line", "arc", "--output=made.png", "--sharpness=4")
    assert sum("half-way 4 pairs" in line for line in said) == 2


def test_arithmetic_is_on_the_mean_codes_of_the_rows(script, trained):
    script("arithmetic", "--a", 0, 1, "--b", 2, "--c", 3, "--output=made.png", "--codes=made.npy")
    table = model_of(trained / "tiny").latents.weight.detach()
    expected = table[:2].mean(0) - table[2] + table[3]
    np.testing.assert_allclose(np.load("made.npy")[-1], to_ball(expected), atol=1e-6)


@pytest.mark.parametrize("command", ["interpolate 0 5 5 9 --path line", "walk --axes 2"])
def test_a_way_is_a_moving_picture_too(script, command):
    name, *arguments = command.split()
    outputs = ("--steps=4", "--output=made.png", "--animation=made.webp")
    assert script(name, *arguments, *outputs)[0] == 0
    with Image.open("made.webp") as moving:
        assert (moving.format, moving.size) == ("WEBP", (128, 128))
    status, _, errors = script(name, *arguments, "--output=other.png", "--animation=made.webp")
    assert (status, errors[0].split(":")[0]) == (2, "--animation made.webp")


def test_saved_codes_are_decoded_to_the_pictures_that_they_were_saved_from(script, trained):
    script("sample", "--num=3", "--output=first.png", "--codes=saved.npy")
    status, _, errors = script("sample", "--decode", "saved.npy", 7, "--output=again.png", "--codes=again.npy")
    assert (status, errors) == (0, [])
    saved, again = np.load("saved.npy"), np.load("again.npy")
    assert np.array_equal(again[:3], saved)
    assert np.array_equal(again[3], model_of(trained / "tiny").latents.weight[7].detach())
    np.save("one.npy", saved[1])
    assert script("interpolate", "one.npy", 7, "--steps=2", "--path=line", "--output=a.png", "--codes=ends.npy")[0] == 0
    np.testing.assert_allclose(np.load("ends.npy"), again[[1, 3]], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("other.npy", "--codes other.npy: was saved from another run, or before it was continued. Give that run."),
        ("wide.npy", "--codes wide.npy: is of shape (2, 7), codes of this run are (M, 6). Give such codes."),
        ("whole.npy", "--codes whole.npy: does not hold finite floats. Give a .npy of codes."),
        ("text.npy", "--codes text.npy: cannot be read as codes"),
        ("nothing.npy", "--codes nothing.npy: cannot be read as codes"),
        ("several.npy", "--codes several.npy: holds 2 codes. Give a file with one."),
    ],
)
def test_codes_that_are_not_of_this_run_are_named(name, line, script, tmp_path):
    np.save("other.npy", np.zeros((2, 6), np.float32))
    (tmp_path / "other.npy.json").write_text('{"run": "another"}')
    np.save("wide.npy", np.zeros((2, 7), np.float32))
    np.save("whole.npy", np.zeros((2, 6), np.int64))
    np.save("several.npy", np.zeros((2, 6), np.float32))
    (tmp_path / "text.npy").write_text("no codes")
    command = ("walk", "--image") if name == "several.npy" else ("sample", "--decode")
    status, _, errors = script(*command, name, "--output=made.png")
    assert (status, len(errors)) == (2, 1)
    assert errors[0].startswith(line)
    assert not (tmp_path / "made.png").exists()


def test_images_are_mixed_by_weights(script, trained):
    script("interpolate", 3, 9, 5, "--weights", 1, 2, 1, "--path", "line", "--output=made.png", "--codes=line.npy")
    table = model_of(trained / "tiny").latents.weight.detach()
    np.testing.assert_allclose(np.load("line.npy")[0], (table[3] + 2 * table[9] + table[5]) / 4, atol=1e-6)
    script("interpolate", 3, 9, "--weights", 0.25, 0.75, "--path=arc", "--output=b.png", "--codes=mixed.npy")
    script("interpolate", 3, 9, "--steps=5", "--path=arc", "--output=c.png", "--codes=arc.npy")
    np.testing.assert_allclose(np.load("mixed.npy")[0], np.load("arc.npy")[3], atol=1e-6)


def test_a_code_is_moved_along_several_axes_at_once(script, trained):
    script("walk", "--image=4", "--move", "1:0.5", "3:-1", "--output=made.png", "--codes=made.npy")
    table = model_of(trained / "tiny").latents.weight.detach()
    axes = principal_axes(table, 3)
    np.testing.assert_allclose(np.load("made.npy")[1], to_ball(table[4] + 0.5 * axes[0] - axes[2]), atol=1e-6)


def test_seed_prior_and_temperature_tell_the_samples(script):
    def codes(*arguments):
        assert script("sample", "--num=3", "--output=made.png", "--codes=made.npy", "--overwrite", *arguments)[0] == 0
        return np.load("made.npy")

    assert np.array_equal(codes(), codes("--prior=mixture", "--seed=0", "--temperature=1"))
    different = [codes("--seed=1"), codes("--temperature=0.5"), codes("--prior=gaussian")]
    assert not any(np.array_equal(codes(), other) for other in different)


def test_projector_shows_the_first_codes_with_their_images(script, trained, tmp_path):
    status, _, errors = script("projector", "--num=20", "--output=projector")
    assert (status, errors) == (0, [])
    (vectors,), (sprite,) = ((tmp_path / "projector").rglob(name) for name in ("tensors.tsv", "sprite.png"))
    table = model_of(trained / "tiny").latents.weight.detach()
    np.testing.assert_allclose(np.loadtxt(vectors), table[:20], rtol=1e-5)
    with Image.open(sprite) as picture:
        red = np.asarray(picture)[::32, ::32, 0].flatten()[:20]
    np.testing.assert_allclose(red, np.arange(20), atol=1)
    assert (tmp_path / "projector" / "projector_config.pbtxt").exists()
    assert script("projector", "--num=20", "--output=projector")[0] == 2


def test_a_run_with_too_few_codes_for_a_gaussian_trains_without_samples(trained):
    assert (trained / "tiny" / "images" / "samples_epoch_000.png").exists()
    assert not (trained / "few" / "images" / "samples_epoch_000.png").exists()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("interpolate 0 24", "image 24: the run has 24 images. Give an index from 0 to 23, or a file."),
        ("interpolate 0 -1", "image -1: the run has 24 images. Give an index from 0 to 23, or a file."),
        ("interpolate 0 1 2", "START END 0 1 2: must be pairs. Give an even number of images."),
        ("interpolate 0 1 --steps 1", "--steps 1: must be 2 or more"),
        ("interpolate 0 text.txt", "images text.txt: no image was found there"),
        ("interpolate 0 nothing.png", "images nothing.png: there is no such file or folder"),
        ("interpolate 0 folder", "image folder: holds 2 images. Give a file with one."),
        ("arithmetic --a 0 --b 1 --c 99", "image 99: the run has 24 images. Give an index from 0 to 23, or a file."),
        ("walk --axes 7", "--axes 7: codes have 6 dimensions. Give 1 to 6."),
        ("walk --reach 0", "--reach 0.0: must be more than 0 standard deviations. Give 3 to reach nearly all codes."),
        ("walk --move 7:1", "--move 7: there is no such direction. Give an axis from 1 to 6."),
        ("walk --move 0:1", "--move 0: there is no such direction. Give an axis from 1 to 6."),
        ("walk --move 1", "--move 1: is not DIRECTION:AMOUNT"),
        ("walk --move 1:inf", "--move 1:inf: is not a finite amount"),
        ("walk --move 1:1 --path flow", "--path flow: moves are among the codes. Give --path line."),
        ("interpolate 0 1 --weights 1", "--weights 1.0: are 1 for 2 images. Give one for each."),
        ("interpolate 0 1 --weights 0 0", "--weights 0.0 0.0: must be 0 or more. Give at least one above 0."),
        ("interpolate 0 1 --weights 2 -1", "--weights 2.0 -1.0: must be 0 or more. Give at least one above 0."),
        (
            "sample --decode a.npy --prior mixture",
            "--prior mixture: draws codes, but --decode has them",
        ),
        ("sample --temperature 0", "--temperature 0.0: must be more than 0. Give 1 to sample the prior as it is."),
        ("sample --temperature -1", "--temperature -1.0: must be more than 0. Give 1 to sample the prior as it is."),
        ("sample --num 0", "--num 0: must be 1 or more"),
        ("sample --prior mixture --n_components 25", "--n_components 25: there are 24 codes to fit. Give fewer."),
        ("sample --prior floe", "--prior floe: give flow, gaussian, diagonal, mixture or the path of a class"),
        ("sample --prior flow", "--prior flow: 24 codes are too few for a flow, which needs 500. Give mixture"),
        ("interpolate 0 1 --path flow", "--path flow: 24 codes are too few for a flow, which needs 500. Do without"),
        ("sample --condition hat=top", "--condition hat=top: the run's images have no labels"),
        ("projector --num 0", "--num 0: TensorBoard cannot show so many. Give 1 to 65536 for this image size."),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(command, line, script, tmp_path):
    (tmp_path / "text.txt").write_text("no image")
    (tmp_path / "folder").mkdir()
    for value in range(2):
        (tmp_path / "folder" / f"{value}.png").write_bytes(encode(flat_image(value)))
    name, *arguments = command.split()
    before = set(tmp_path.iterdir())
    status, _, errors = script(name, *arguments, "--output=made")
    assert status == 2
    assert len(errors) == 1
    assert errors[0].startswith(line)
    assert set(tmp_path.iterdir()) == before


def test_too_few_codes_for_a_full_covariance_are_named(script, trained):
    status, _, errors = script("sample", "--prior=gaussian", "--output=made.png", run=trained / "few")
    assert status == 2
    remedy = "24 codes are too few for a full covariance of 30 dimensions. Give diagonal."
    assert errors == [f"--prior gaussian: {remedy}"]
    assert script("sample", "--prior=diagonal", "--output=made.png", run=trained / "few")[0] == 0


def test_a_checkpoint_alone_says_what_it_lacks(script, trained, tmp_path):
    shutil.copy(trained / "tiny" / "checkpoints" / "last.ckpt", tmp_path / "alone.ckpt")
    assert script("walk", "--output=made.png", run=tmp_path / "alone.ckpt")[0] == 0
    status, _, errors = script("walk", "--output=b.png", "--tensorboard", run=tmp_path / "alone.ckpt")
    assert status == 2
    assert len(errors) == 1
    assert not (tmp_path / "b.png").exists()
