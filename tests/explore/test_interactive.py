"""A run in Python: its methods give what the commands write, and a picture that a notebook shows."""

import io
import shutil

import numpy as np
import pytest
import torch
from conftest import encode
from PIL import Image
from programs import codes_of, stands_in, table_of

from glo_lightning import load_run
from glo_lightning.errors import InputError
from glo_lightning.explore.outputs import is_own


@pytest.fixture(scope="module")
def run(faces_run):
    return load_run(faces_run, "cpu")


@pytest.fixture
def photo(tmp_path, run):
    """A training image's file."""
    path = tmp_path / "photo.png"
    path.write_bytes(encode(run.images([3])[0].permute(1, 2, 0).numpy()))
    return path


COMMANDS = [
    ("sample", "--num=5 --seed=3 --temperature=0.5", lambda run: run.sample(5, seed=3, temperature=0.5), 5),
    ("sample", "--num=4 --prior=gaussian", lambda run: run.sample(4, prior="gaussian"), 4),
    ("interpolate", "1 5 27 9 --steps=3", lambda run: run.interpolate(1, "5", 27, 9, steps=3), 6),
    ("interpolate", "1 5 --steps=4 --path=line", lambda run: run.interpolate(1, 5, steps=4, path="line"), 4),
    ("walk", "--image=4 --axes=2 --steps=3 --reach=2", lambda run: run.walk(4, axes=2, steps=3, reach=2), 6),
    ("walk", "--axes=2 --steps=3", lambda run: run.walk(axes=2, steps=3), 6),
    ("arithmetic", "--a 0 1 --b 2 --c 3 --strength 2", lambda run: run.arithmetic([0, 1], 2, 3, strength=2), 4),
    ("arithmetic", "--a glasses=glasses2 --b glasses= --c 3",
     lambda run: run.arithmetic("glasses=glasses2", "glasses=", 3), 4),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "method", "number"), COMMANDS, ids=[" ".join(c[:2]) for c in COMMANDS])
def test_a_method_makes_what_the_command_writes(name, arguments, method, number, run, faces_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = method(run)
    assert made.codes.shape == (number, run.codes.shape[1])
    assert np.array_equal(codes_of(name, faces_run, *arguments.split()), made.codes)
    torch.testing.assert_close(made.images, run.model(made.codes))
    with Image.open("made.png") as written, Image.open(io.BytesIO(made._repr_png_())) as shown:
        assert np.array_equal(np.asarray(written), np.asarray(shown))


def test_images_are_reconstructed_from_their_own_codes(run, faces_run):
    made = run.reconstruct(5, "7")
    assert torch.equal(made.codes, table_of(faces_run)[[5, 7]])
    shown = np.asarray(made.picture)
    for image in [*run.images([5, 7]), *made.images.add(1).mul(127.5).round().byte()]:
        assert stands_in(shown, image.permute(1, 2, 0).numpy())
    assert torch.equal(run.reconstruct().codes, table_of(faces_run)[:8])


def test_files_folders_and_pillow_images_are_encoded_alike(run, photo):
    with Image.open(photo) as opened:
        made = run.encode(photo, str(photo), photo.parent, opened, steps=40)
        both = run.interpolate(opened, photo, steps=2, path="line")
    assert made.images.shape == (4, 3, 32, 32)
    for other in made.codes[1:]:
        torch.testing.assert_close(other, made.codes[0])
    torch.testing.assert_close(both.codes[0], both.codes[1])
    target = run.images([3])[0] / 127.5 - 1
    assert ((made.images[0] - target) ** 2).mean() <= ((run.model(run.codes.mean(0)[None]) - target) ** 2).mean()


def test_a_result_is_saved_as_a_commands_picture(run, tmp_path):
    made = run.sample(2)
    for _ in range(2):
        made.save(tmp_path / "new.png")
    assert is_own(tmp_path / "new.png")
    with Image.open(tmp_path / "new.png") as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(made.picture))
    assert repr(made) == "Result: 2 codes and their images"
    (tmp_path / "mine.png").write_text("mine")
    for path in ("new.txt", "nowhere/new.png", "mine.png"):
        with pytest.raises(InputError, match=path):
            made.save(tmp_path / path)
    assert (tmp_path / "mine.png").read_text() == "mine"


def test_a_run_says_in_one_line_what_it_is(run):
    assert repr(run) == "Run: 96 images of 32x32 pixels, 6 dimensions, SkipGenerator, step 36, prior mixture"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda run: run.sample(0), "num 0: must be 1 or more"),
        (lambda run: run.sample(condition="glasses=sunglasses"), "condition glasses=sunglasses: "),
        (lambda run: run.sample(prior="gaussian", guidance=2), "guidance 2: 96 codes are too few for a flow"),
        (lambda run: run.interpolate(1, 2, 3), "START END 1 2 3: must be pairs"),
        (lambda run: run.interpolate(), "START END nothing: must be pairs"),
        (lambda run: run.interpolate(1, 2, steps=1), "steps 1: must be 2 or more"),
        (lambda run: run.interpolate(1, 96), "image 96: the run has 96 images"),
        (lambda run: run.walk(-1), "image -1: the run has 96 images"),
        (lambda run: run.walk(axes=7), "axes 7: codes have 6 dimensions"),
        (lambda run: run.arithmetic([], 1, 2), "arithmetic a, b, c: one of them has no image"),
        (lambda run: run.arithmetic(0, 1, 2, strength=float("nan")), "strength nan: "),
        (lambda run: run.interpolate(1, 2, path="arch"), "path arch: give one of flow, line, arc"),
        (lambda run: run.walk(path="arc"), "path arc: give one of flow, line"),
        (lambda run: run.arithmetic(0, 1, 2, path="lin"), "path lin: give one of flow, line"),
        (lambda run: run.encode(), "images nothing: is given"),
        (lambda run: run.encode("no.png"), "images no.png: there is no such file or folder"),
        (lambda run: run.encode(__file__), "no image was found there"),
    ],
)
def test_wrong_input_is_named(method, message, run):
    with pytest.raises(InputError) as error:
        method(run)
    assert message in str(error.value)


def test_a_run_without_its_images_still_samples_and_walks(faces_run, tmp_path):
    shutil.copy(faces_run / "checkpoints" / "last.ckpt", tmp_path / "alone.ckpt")
    alone = load_run(tmp_path / "alone.ckpt", "cpu")
    assert alone.sample(2).images.shape == (2, 3, 32, 32)
    assert alone.walk(axes=1, steps=3).images.shape == (3, 3, 32, 32)
    with pytest.raises(InputError, match=r"has no config.yaml beside it"):
        alone.interpolate(0, 1)
