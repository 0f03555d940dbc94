"""scripts/sample.py, interpolate.py, walk.py, arithmetic.py and projector.py on a tiny run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encode, flat_image, load
from PIL import Image
from programs import call, codes_of, refusal, stands_in, table_of, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from glo_lightning.explore.paths import principal_axes, slerp
from glo_lightning.latents import to_ball
from glo_lightning.module import GLO

SPATIAL = ("--model.generator=SpatialGenerator", "--model.generator.side=2", "--model.latent_dim=8", "--prior=null")
SPATIAL += ("--model.optimizer=AdamW", "--model.optimizer.lr=0.003")
RUNS = {"tiny": (), "few": ("--model.latent_dim=30", "--model.init=random"), "spatial": SPATIAL}
RUNS["small"] = (*SPATIAL, "--model.latent_dim=32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, flat_lmdb):
    """Run folders by name: ``tiny``, of 24 codes of 6 dimensions, ``few``, of 30, ``spatial``, of 2 x 2 x 2, and
    ``small``, a set of images that is: of 8 x 2 x 2."""
    folder = tmp_path_factory.mktemp("runs")
    for name, flags in RUNS.items():
        train(folder / name, *flags, "--max_epochs=10", "--data.root", flat_lmdb)
    return folder


@pytest.fixture
def tiny(monkeypatch, tmp_path, trained):
    """The tiny run; the current folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    return trained / "tiny"


COMMANDS = {
    "sample": (("--num=5",), 5),
    "interpolate": ((0, 1, 5, 2, "--steps=3", "--path", "line", "arc"), 12),
    "walk": (("--axes=2", "--steps=3", "--image=4"), 6),
    "arithmetic": (("--a", 0, 1, "--b", 2, "--c", 3), 4),
}


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("sample", ("--num=3", "--prior=gaussian", "--codes=codes.npy")),
        ("interpolate", (0, 1, "--steps=3", "--path=arc", "--codes=codes.npy")),
        ("encode", ("image.png", "--operator=down4", "--steps=10", "--output=made")),
        ("export", ("exported",)),
    ],
)
def test_codes_with_places_go_through_every_command(command, arguments, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(trained / "spatial", "run"))
    size = 8 if "--operator=down4" in arguments else 32
    Path("image.png").write_bytes(encode(flat_image(60, size)))
    status, _, errors = call(command, run, *arguments)
    assert status == 0, errors
    if command == "export":
        weights = load(run)["state_dict"]["generator.decoder.weight"]
        assert torch.equal(GLO.from_pretrained("exported").generator.decoder.weight, weights)
    elif command != "encode":
        assert np.load("codes.npy").shape == (3, 8)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_writes_a_picture_and_codes_and_shows_them_in_tensorboard(name, tiny, tmp_path):
    arguments, number = COMMANDS[name]
    run = shutil.copytree(tiny, tmp_path / "run")
    outputs = ("--output", "made.png", "--codes", "made.npy", "--tensorboard")
    status, said, errors = call(name, run, "--accelerator=cpu", *arguments, *outputs)
    assert (status, errors) == (0, [])
    assert [line for line in said.splitlines() if line.startswith("wrote")] == ["wrote made.png", "wrote made.npy"]
    with Image.open("made.png") as picture:
        assert picture.format == "PNG"
        shown = np.asarray(picture)
    codes = np.load("made.npy")
    assert codes.shape == (number, 6)
    assert np.linalg.norm(codes, axis=1).max() <= 1 + 1e-6
    # every generated image stands in the picture, enlarged to 64 pixels
    model = GLO.load_from_checkpoint(run / "checkpoints" / "last.ckpt", weights_only=True).eval()
    for image in model(torch.from_numpy(codes)).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy():
        assert stands_in(shown, image)
        assert not stands_in(shown, 255 - image)
    accumulator = EventAccumulator(str(run), size_guidance={"images": 0})
    accumulator.Reload()
    assert [tag for tag in accumulator.Tags()["images"] if tag.startswith("explore/")]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_replaces_a_file_only_with_overwrite(name, tiny, tmp_path):
    command = (name, tiny, *COMMANDS[name][0])
    assert call(*command, "--output=made.png", "--codes=made.npy")[0] == 0
    (tmp_path / "fresh.npy.json").write_text("mine")  # which the codes' own file would replace
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    line = refusal(*command, "--output", "made.png")
    assert line == "--output made.png: exists. Give --overwrite to replace it, or another name."
    for outputs, why in (
        (("other.png", "--codes=made.npy"), "made.npy: exists"),
        (("made.png", "--codes=fresh.npy", "--overwrite"), "fresh.npy.json: exists"),
        (("made.png", "--codes=made.png", "--overwrite"), "is given for two outputs"),
    ):
        assert why in refusal(*command, "--output", *outputs)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert call(*command, "--output=made.png", "--overwrite")[0] == 0


def test_a_second_call_takes_a_new_name_and_says_it(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for name in ("interpolation.png", "interpolation-2.png", "interpolation-3.png"):
        status, output, _ = call("interpolate", run, 0, 1, "--steps=2", "--accelerator=cpu")
        assert status == 0
        assert f"wrote {run / 'explore' / name}" in output
        assert (run / "explore" / name).is_file()


def test_an_output_goes_beside_the_run_or_it_says_where_else(tiny, tmp_path):
    run = shutil.copytree(tiny, tmp_path / "run")
    for name in (run, run / "checkpoints" / "last.ckpt"):
        refusal("walk", name, "--axes=99")
        assert not (run / "explore").exists()  # nothing was written, and so nothing is made
    assert call("walk", run / "checkpoints" / "last.ckpt", "--axes=1")[0] == 0
    assert (run / "explore" / "walk.png").is_file()
    shutil.rmtree(run / "explore")
    (run / "explore").touch()  # in its place: the folder cannot be made
    _, said, _ = call("walk", run, "--axes=1")
    assert said.splitlines()[-2:] == [
        f"{run} cannot be written: the output goes to the current folder",
        "wrote walk.png",
    ]
    assert (tmp_path / "walk.png").is_file()


def moved(table: torch.Tensor) -> torch.Tensor:
    axes = principal_axes(table, 3)
    return table[4] + 0.5 * axes[0] - axes[2]


@pytest.mark.parametrize(
    ("command", "place", "expected"),
    [
        ("interpolate 3 9 --steps=4 --path arc", 0, lambda table: table[3]),
        ("interpolate 3 9 --steps=4 --path arc", -1, lambda table: table[9]),
        ("interpolate 3 9 --steps=4 --path line", -1, lambda table: table[9]),
        ("interpolate 3 9 5 --weights 1 2 1 --path line", 0, lambda t: (t[3] + 2 * t[9] + t[5]) / 4),
        ("interpolate 3 9 --weights 0.25 0.75 --path arc", 0, lambda t: slerp(t[3], t[9], 5, to_ball)[3]),
        ("arithmetic --a 0 1 --b 2 --c 3", -1, lambda table: table[:2].mean(0) - table[2] + table[3]),
        ("walk --image 4 --move 1:0.5 3:-1", 1, moved),
    ],
)
def test_codes_are_those_that_the_arguments_say(command, place, expected, tiny):
    name, *arguments = command.split()
    codes = codes_of(name, tiny, *arguments)
    np.testing.assert_allclose(codes[place], to_ball(expected(table_of(tiny))), atol=1e-6)


def test_interpolation_tells_how_sharp_it_is_half_way(tiny):
    _, said, _ = call("interpolate", tiny, 3, 9, "--path", "line", "arc", "--output=made.png", "--sharpness=4")
    assert said.count("half-way 4 pairs") == 2


@pytest.mark.parametrize("command", ["interpolate 0 5 5 9 --path line", "walk --axes 2"])
def test_a_path_is_a_moving_picture_too(tiny, command):
    name, *arguments = command.split()
    command = (name, tiny, *arguments, "--steps=4", "--animation=made.webp")
    assert call(*command, "--output=made.png")[0] == 0
    with Image.open("made.webp") as moving:
        assert (moving.format, moving.size) == ("WEBP", (128, 128))
    assert refusal(*command, "--output=other.png").startswith("--animation made.webp:")


def test_saved_codes_are_decoded_to_the_pictures_that_they_were_saved_from(tiny):
    saved = codes_of("sample", tiny, "--num=3")
    shutil.copy("made.npy", "saved.npy")
    shutil.copy("made.npy.json", "saved.npy.json")
    again = codes_of("sample", tiny, "--decode", "saved.npy", 7)
    assert np.array_equal(again[:3], saved)
    assert np.array_equal(again[3], table_of(tiny)[7])
    np.save("one.npy", saved[1])
    ends = codes_of("interpolate", tiny, "one.npy", 7, "--steps=2", "--path=line")
    np.testing.assert_allclose(ends, again[[1, 3]], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("other.npy", "code file other.npy: was saved from another run, or before it was continued. Give that run."),
        ("wide.npy", "code file wide.npy: is of shape (2, 7), codes of this run are (M, 6). Give such codes."),
        ("large.npy", "code file large.npy: does not hold floats below 1e+15. Give a .npy of codes."),
        ("whole.npy", "code file whole.npy: does not hold floats below 1e+15. Give a .npy of codes."),
        ("text.npy", "code file text.npy: cannot be read ("),
        ("nothing.npy", "code file nothing.npy: cannot be read ("),
        ("several.npy", "code file several.npy: holds 2 codes. Give a file with one."),
    ],
)
def test_codes_that_are_not_of_this_run_are_named(name, line, tiny, tmp_path):
    np.save("other.npy", np.zeros((2, 6), np.float32))
    (tmp_path / "other.npy.json").write_text('{"run": "another"}')
    np.save("wide.npy", np.zeros((2, 7), np.float32))
    np.save("large.npy", np.full((2, 6), 1e30, np.float32))
    np.save("whole.npy", np.zeros((2, 6), np.int64))
    np.save("several.npy", np.zeros((2, 6), np.float32))
    (tmp_path / "text.npy").write_text("no codes")
    command, flag = ("walk", "--image") if name == "several.npy" else ("sample", "--decode")
    assert refusal(command, tiny, flag, name, "--output=made.png").startswith(line)
    assert not (tmp_path / "made.png").exists()


def test_a_path_that_is_named_twice_has_one_row(tiny):
    paths = (("line",), ("line", "line"))
    once, twice = (codes_of("interpolate", tiny, 3, 9, "--steps=3", "--path", *path) for path in paths)
    assert np.array_equal(once, twice)


def test_seed_prior_and_temperature_tell_the_samples(tiny):
    def codes(*arguments):
        return codes_of("sample", tiny, "--num=3", *arguments)

    assert np.array_equal(codes(), codes("--prior=mixture", "--seed=0", "--temperature=1"))
    different = [codes("--seed=1"), codes("--temperature=0.5"), codes("--prior=gaussian")]
    assert not any(np.array_equal(codes(), other) for other in different)


def test_projector_shows_the_first_codes_with_their_images(tiny, tmp_path):
    status, _, errors = call("projector", tiny, "--num=20", "--output=projector")
    assert (status, errors) == (0, [])
    (vectors,), (sprite,) = ((tmp_path / "projector").rglob(name) for name in ("tensors.tsv", "sprite.png"))
    np.testing.assert_allclose(np.loadtxt(vectors), table_of(tiny)[:20], rtol=1e-5)
    with Image.open(sprite) as picture:
        red = np.asarray(picture)[::32, ::32, 0].flatten()[:20]
    np.testing.assert_allclose(red, np.arange(20), atol=1)
    assert (tmp_path / "projector" / "projector_config.pbtxt").exists()
    events = EventAccumulator(str(tmp_path / "projector"))
    events.Reload()
    assert events.Tags()["images"]  # without anything it would be an empty run on TensorBoard's other pages
    assert "exists" in refusal("projector", tiny, "--num=20", "--output=projector")


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
        (
            "walk --reach 0",
            "--reach 0.0: must be more than 0 standard deviations, and at most 1000. Give 3 to reach nearly all codes.",
        ),
        ("walk --move 7:1", "--move 7: there is no such direction. Give an axis from 1 to 6."),
        ("walk --move 0:1", "--move 0: there is no such direction. Give an axis from 1 to 6."),
        ("walk --move 1", "--move 1: is not DIRECTION:AMOUNT"),
        ("walk --move 1:inf", "--move 1:inf: must move by at most 1000 standard deviations. Give a few."),
        ("walk --move 1:nan", "--move 1:nan: must move by at most 1000"),
        ("walk --move 1:1e30", "--move 1:1e+30: must move by at most 1000"),
        ("walk --move 1:1 --steps 3", "--steps 3: has no effect with --move, which makes one image. Leave it out."),
        ("walk --move 1:1 --axes 6", "--axes 6: has no effect with --move"),
        ("walk --reach=nan --move 1:1", "--reach nan: has no effect with --move"),
        ("walk --move 1:1 --animation a.webp", "--animation a.webp: has no effect with --move"),
        ("walk --reach nan", "--reach nan: must be more than 0 standard deviations, and at most 1000. Give 3"),
        ("walk --reach 1e30", "--reach 1e+30: must be more than 0"),
        ("walk --steps 1", "--steps 1: must be 2 or more"),
        ("walk --steps 1000000000", "--steps 1000000000: 12000000000 images would take"),
        ("arithmetic --a 0 --b 1 --c 2 --strength nan", "--strength nan: must be from -1000 to 1000"),
        ("arithmetic --a 0 --b 1 --c 2 --strength 1e30", "--strength 1e+30: must be from -1000 to 1000"),
        ("interpolate 0 1 --sharpness 1000000000", "--sharpness 1000000000: 3000000000 images would take"),
        ("interpolate 0 1 --weights nan 1", "--weights nan 1.0: must be from 0 to 1e6"),
        ("interpolate 0 1 --weights 1 1e30", "--weights 1.0 1e+30: must be from 0 to 1e6"),
        ("interpolate 0 1 --weights 1 1 --steps 9", "--steps 9: has no effect with --weights, which makes one image"),
        ("interpolate 0 1 --weights 1 1 --animation a.webp", "--animation a.webp: has no effect with --weights"),
        ("walk --move 1:1 --path flow", "--path flow: moves are among the codes. Give --path line."),
        ("interpolate 0 1 --weights 1", "--weights 1.0: are 1 for 2 images. Give one for each."),
        ("interpolate 0 1 --weights 0 0", "--weights 0.0 0.0: must be from 0 to 1e6. Give at least one above 0."),
        ("interpolate 0 1 --weights 2 -1", "--weights 2.0 -1.0: must be from 0 to 1e6. Give at least one above 0."),
        ("sample --decode a.npy --prior mixture", "--prior mixture: has no effect with --decode, which shows saved"),
        ("sample --decode a.npy --n_components 3", "--n_components 3: has no effect with --decode"),
        ("sample --decode a.npy --num 24", "--num 24: has no effect with --decode"),
        ("sample --decode a.npy --seed=0", "--seed 0: has no effect with --decode"),
        ("sample --decode a.npy --temperature 1", "--temperature 1.0: has no effect with --decode"),
        ("sample --decode a.npy --condition a=1 b=2", "--condition a=1 b=2: has no effect with --decode"),
        ("sample --decode a.npy --guidance 2", "--guidance 2.0: has no effect with --decode"),
        ("sample --decode a.npy --pick 2", "--pick 2: has no effect with --decode"),
        ("sample --num 3 --prior diagonal --pick 1 4", "--pick 4: must be from 1 to 3"),
        ("sample --temperature 0", "--temperature 0.0: must be more than 0, and at most 100. Give 1 to sample the"),
        ("sample --temperature nan", "--temperature nan: must be more than 0, and at most 100"),
        ("sample --temperature 1e30", "--temperature 1e+30: must be more than 0, and at most 100"),
        ("sample --seed -1", "--seed -1: must be from 0 to 4294967295"),
        ("sample --seed 4294967296 --prior diagonal", "--seed 4294967296: must be from 0 to 4294967295"),
        ("sample --guidance -5", "--guidance -5.0: must be from 0 to 100"),
        ("sample --guidance inf", "--guidance inf: must be from 0 to 100"),
        ("sample --guidance nan --prior gaussian", "--guidance nan: must be from 0 to 100"),
        (
            "sample --guidance 2 --prior gaussian",
            "--guidance 2.0: 24 codes are too few for a flow, which needs 500. Do w",
        ),
        ("sample --guidance 2", "--guidance 2.0: 24 codes are too few for a flow, which needs 500. Do without"),
        ("sample --guidance 2 --prior flow", "--guidance 2.0: 24 codes are too few for a flow, which needs 500. Do"),
        ("sample --num 1000000000000", "--num 1000000000000: as many codes would take"),
        ("sample --num 0", "--num 0: must be 1 or more"),
        ("sample --prior mixture --n_components 25", "--n_components 25: there are 24 codes to fit. Give fewer."),
        ("sample --prior floe", "--prior floe: there is no such class. Give flow, gaussian, diagonal, mixture or the"),
        ("sample --prior flow", "--prior flow: 24 codes are too few for a flow, which needs 500. Give mixture"),
        ("interpolate 0 1 --path flow", "--path flow: 24 codes are too few for a flow, which needs 500. Do without"),
        ("sample --condition hat=top", "--condition hat=top: the run's images have no labels"),
        ("projector --num 0", "--num 0: must be from 1 to 65536"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(command, line, tiny, tmp_path):
    (tmp_path / "text.txt").write_text("no image")
    (tmp_path / "folder").mkdir()
    for value in range(2):
        (tmp_path / "folder" / f"{value}.png").write_bytes(encode(flat_image(value)))
    name, *arguments = command.split()
    before = set(tmp_path.iterdir())
    assert refusal(name, tiny, *arguments, "--output=made").startswith(line)
    assert set(tmp_path.iterdir()) == before


def test_a_run_of_fewer_codes_than_dimensions_goes_through_the_commands(tiny):
    few = tiny.parent / "few"
    assert (few / "images" / "samples_epoch_000.png").exists()
    assert call("sample", few, "--prior=gaussian", "--output=made.png")[0] == 0
    assert call("export", few, "exported")[0] == 0
    assert Path("exported/pictures/samples.png").exists()
    line = "--starts pca: codes have 30 dimensions, and a PCA of 24 images has at most 24 dimensions. Give mean"
    assert refusal("evaluate", few).startswith(line)
    status, output, _ = call("evaluate", few, "--num=4", "--steps=2", "--starts", "mean")
    assert (status, "PCA" in output) == (0, False)


def test_codes_with_places_of_few_images_are_compared_with_a_pca_of_patches(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(trained / "small", "run"))
    Path("image.png").write_bytes(encode(flat_image(60, 32)))
    status, output, _ = call("evaluate", run, "--num=4", "--steps=2")
    assert (status, "training images, PCA of patches | 4 |" in output) == (0, True)
    status, output, _ = call("encode", run, "image.png", "--steps=2")
    assert (status, "; by PCA of patches with as many dimensions" in output) == (0, True)
    call("export", run, "exported")
    assert "| PCA of patches with as many dimensions |" in Path("exported/README.md").read_text()


def test_a_checkpoint_alone_says_what_it_lacks(tiny, tmp_path):
    shutil.copy(tiny / "checkpoints" / "last.ckpt", "alone.ckpt")
    assert call("walk", "alone.ckpt", "--output=made.png")[0] == 0
    refusal("walk", "alone.ckpt", "--output=b.png", "--tensorboard")
    assert not (tmp_path / "b.png").exists()
