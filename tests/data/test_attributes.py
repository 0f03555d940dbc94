import csv

import pytest
import torch
from conftest import encode, flat_image, load, write_lmdb

from glo_lightning import LSUNDataModule
from glo_lightning.data.attributes import Attributes
from glo_lightning.errors import InputError

COLUMNS = {"hat": ["top", "", "top", "cap"], "eyes": ["2", "2", "1", "2"]}


@pytest.fixture
def labelled(tmp_path):
    """An LMDB of eight images and an attributes.csv in another order, with a line of an image that is not there."""
    folder = write_lmdb(tmp_path / "lmdb", {b"%02x" % row: encode(flat_image(row)) for row in range(8)})
    lines = [["key", "parity", "big"], ["ff", "odd", ""]]
    lines += [[f"{row:02x}", "odd" if row % 2 else "even", "yes" if row > 4 else ""] for row in reversed(range(8))]
    with open(folder / "attributes.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder


def test_rows_have_all_that_is_given():
    attributes = Attributes(COLUMNS)
    assert attributes.values == {"hat": ["", "cap", "top"], "eyes": ["1", "2"]}
    assert attributes.rows(["hat=top"]).tolist() == [0, 2]
    assert attributes.rows(["hat=top", "eyes=2"]).tolist() == [0]
    assert attributes.rows(["hat="]).tolist() == [1]
    assert attributes.rows([]).tolist() == [0, 1, 2, 3]
    assert attributes.parse(["eyes=1"]).tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("hut=top", "did you mean hat"),
        ("hat=cup", "did you mean cap"),
        ("hat=zzz", "there are '', cap, top"),
        ("hat", "is not name=value; the names are hat, eyes"),
    ],
)
def test_what_does_not_exist_is_named_with_the_nearest(given, remedy):
    with pytest.raises(InputError, match=remedy) as error:
        Attributes(COLUMNS).parse([given])
    assert (error.value.key, error.value.value) == ("given", given)


def test_a_name_is_given_once():
    with pytest.raises(InputError, match="given twice"):
        Attributes(COLUMNS).parse(["eyes=1", "eyes=2"])


def test_attributes_are_read_by_key_and_follow_num_samples(labelled):
    attributes = LSUNDataModule(labelled).attributes
    assert attributes.rows(["parity=odd"]).tolist() == [1, 3, 5, 7]
    assert attributes.rows(["big=yes"]).tolist() == [5, 6, 7]
    few = LSUNDataModule(labelled, num_samples=4)
    assert few.attributes.rows(["parity=odd"]).tolist() == [1, 3]
    assert few.attributes.values["big"] == [""]
    assert few.attributes.digest() == attributes.digest(4) != attributes.digest()


def test_the_held_out_images_have_theirs(labelled):
    data = LSUNDataModule(labelled, holdout=3)
    assert data.num_images == 5
    assert data.attributes.table[data.holdout_rows(3)].tolist() == attributes_of(labelled, [5, 6, 7])


def attributes_of(folder, rows):
    return LSUNDataModule(folder).attributes.table[torch.tensor(rows)].tolist()


@pytest.mark.parametrize(
    ("lines", "remedy"),
    [
        ("key,a\nff,x\n", "names none of these images"),
        ("key,a\n00,x,y\n", "line 2 has not as many fields"),
        ("key\n00\n", "its heading is not key,name"),
        ("key,a,a\n00,x,y\n", "its heading is not key,name"),
        ("", "cannot be read"),
    ],
)
def test_a_table_of_other_images_or_none_is_one_line(labelled, lines, remedy):
    (labelled / "attributes.csv").write_text(lines)
    with pytest.raises(InputError, match=remedy):
        _ = LSUNDataModule(labelled).attributes


def test_images_without_a_line_are_not_labelled(labelled, caplog):
    (labelled / "attributes.csv").write_text("key,parity,big\n01,odd,\n02,even,yes\n")
    with caplog.at_level("INFO", "glo_lightning"):
        attributes = LSUNDataModule(labelled).attributes
    assert "6 of 8 images have no labels" in caplog.text
    assert attributes.table.tolist() == [[-1, -1], [1, 0], [0, 1], *[[-1, -1]] * 5]
    assert attributes.rows(["big="]).tolist() == [1]
    assert not attributes.new_pairs(2)[[0, 3]].any()
    restored = Attributes.from_state(attributes.state())
    assert (restored.values, restored.digest()) == (attributes.values, attributes.digest())
    assert attributes.state()["table"].dtype == torch.int8


def test_images_without_a_table_have_no_attributes(flat_lmdb):
    assert LSUNDataModule(flat_lmdb).attributes is None


def test_the_environment_tells_the_attributes(run, labelled, tmp_path):
    import json

    flags = ("--data.image_size=32", "--model.width=4", "--model.latent_dim=2", "--max_epochs=1", "--accelerator=cpu")
    assert run("--data.root", labelled, *flags, "--output", tmp_path / "run") == (0, "")
    data = json.loads((tmp_path / "run" / "environment.json").read_text())[-1]["data"]
    assert data["attributes_sha256"] == LSUNDataModule(labelled).attributes.digest()
    assert load(tmp_path / "run")["global_step"] == 1
