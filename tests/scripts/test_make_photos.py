import csv
import os
import runpy

import pytest
from conftest import REPOSITORY, encode, flat_image
from programs import call, refusal

from glo_lightning.data.datamodule import LSUNDataModule

FLAGS = ("--num", 60, "--holdout", 12, "--size", 16)


@pytest.fixture
def photographs(tmp_path):
    """Nine flat photographs of 30 to 46 pixels, each of its own red, a copy, a small one, and a file that is none."""
    folder = tmp_path / "photographs"
    (folder / "below").mkdir(parents=True)
    for number in range(9):
        (folder / f"{number}.png").write_bytes(encode(flat_image(20 * number, size=30 + 2 * number)))
    (folder / "below" / "copy.png").write_bytes((folder / "8.png").read_bytes())
    (folder / "small.png").write_bytes(encode(flat_image(250, size=15)))
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"not an image")
    return folder


def test_held_out_crops_are_of_photographs_of_which_training_has_none(photographs, tmp_path):
    status, output, errors = call("make_photos", tmp_path / "crops", photographs, *FLAGS)
    assert (status, output) == (0, f"{tmp_path / 'crops'}: 60 crops of 7 photographs, 12 held out of 2 others\n")
    assert any("small.png: left out, its shorter side of 15 is below --size 16" in line for line in errors)
    assert any(r"\xff.jpg: left out, not a readable image" in line for line in errors)
    data = LSUNDataModule(tmp_path / "crops", holdout_split="val", image_size=16)
    assert (data.num_images, data.holdout) == (60, 12)
    reds = (data.dataset.images[:, 0].float().mean((1, 2)) / 20).round().int().tolist()
    assert sorted({*reds[:60]} | {*reds[60:]}) == list(range(9))
    assert len({*reds[60:]}) == 2
    assert not {*reds[:60]} & {*reds[60:]}
    assert reds[:60] != sorted(reds[:60])  # so that the first images are a random subset
    with open(tmp_path / "crops" / "photographs.csv") as file:
        listed = {row["file"]: row["part"] for row in csv.DictReader(file)}
    assert sum(part == "val" for part in listed.values()) == 2
    assert len(listed) == 9


def test_the_same_photographs_make_the_same_crops(photographs, tmp_path):
    call("make_photos", tmp_path / "a", photographs, *FLAGS)
    for file in photographs.glob("*.png"):
        file.rename(file.with_name(os.fsdecode(b"\xff" + os.fsencode(file.name))))
    call("make_photos", tmp_path / "b", photographs, *FLAGS)
    sources = [LSUNDataModule(tmp_path / name, holdout_split="val").source for name in "ab"]
    first, second = ([(source.key(row), source.read(row)) for row in range(len(source))] for source in sources)
    assert first == second


def test_without_photographs_those_of_the_packages_are_cropped(tmp_path, monkeypatch):
    listed = runpy.run_path(str(REPOSITORY / "scripts" / "make_photos.py"))["LIST"].read_text().splitlines()
    rows = list(csv.DictReader(listed))
    assert all(all(row.values()) for row in rows)
    monkeypatch.syspath_prepend(tmp_path)
    for number, row in enumerate(rows):
        file = tmp_path / row["file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(flat_image(number, size=20)))
    (tmp_path / "skimage" / "__init__.py").touch()
    status, output, _ = call("make_photos", tmp_path / "crops", *FLAGS, "--root", tmp_path)
    assert (status, output.split(": ")[1]) == (0, "60 crops of 41 photographs, 12 held out of 9 others\n")
    (tmp_path / rows[0]["file"]).unlink()
    line = refusal("make_photos", tmp_path / "others", "--root", tmp_path)
    assert f"{rows[0]['file']}: is not there. Run apt install plasma-workspace-wallpapers" in line


def test_wrong_input_is_one_line_and_leaves_nothing(photographs, tmp_path):
    one = photographs / "0.png"
    for arguments, words in (
        ((photographs, photographs), "exists already"),
        ((tmp_path / "crops", photographs, "--holdout", 0), "--holdout 0"),
        ((tmp_path / "crops", photographs, "--root", tmp_path), "has no effect with PHOTOGRAPHS"),
        ((tmp_path / "crops", tmp_path / "nowhere"), "no such file or folder"),
        (
            (tmp_path / "crops", one, "--size", 16),
            "1 photographs: too few of 16 pixels or more. Give 2, one to hold out",
        ),
        (("/proc/nobody/writes", one, photographs / "1.png", "--size", 16), "cannot be written"),
    ):
        assert words in refusal("make_photos", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["photographs"]
