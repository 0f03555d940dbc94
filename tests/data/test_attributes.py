import csv
import json
import os

import pytest
from conftest import encode, flat_image, write_lmdb

from glo_lightning import LSUNDataModule
from glo_lightning.data.attributes import Attributes, read_labels
from glo_lightning.errors import InputError

COLUMNS = {"hat": ["top", "", "top", "cap"], "eyes": ["2", "2", "1", "2"]}


@pytest.fixture
def labelled(tmp_path):
    """An LMDB of eight images and an attributes.csv in another order, with a line for an image that is not there."""
    folder = write_lmdb(tmp_path / "lmdb", {b"%02x" % row: encode(flat_image(row)) for row in range(8)})
    lines = [["key", "parity", "big"], ["ff", "odd", ""]]
    lines += [[f"{row:02x}", "odd" if row % 2 else "even", "yes" if row > 4 else ""] for row in reversed(range(8))]
    with open(folder / "attributes.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder


def test_rows_meet_all_conditions():
    attributes = Attributes(COLUMNS)
    assert attributes.values == {"hat": ["", "cap", "top"], "eyes": ["1", "2"]}
    for conditions, rows in ((["hat=top"], [0, 2]), (["hat=top", "eyes=2"], [0]), (["hat="], [1]), ([], [0, 1, 2, 3])):
        assert attributes.rows(conditions).tolist() == rows
    assert attributes.parse(["eyes=1"]).tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["hut=top"], "did you mean hat"),
        (["hat=cup"], "did you mean cap"),
        (["hat=zzz"], "there are '', cap, top"),
        (["hat"], "is not name=value. The names are hat, eyes."),
        (["eyes=1", "eyes=2"], "given twice"),
    ],
)
def test_a_wrong_condition_is_named_with_the_nearest(conditions, message):
    with pytest.raises(InputError, match=message) as error:
        Attributes(COLUMNS).parse(conditions)
    assert (error.value.key, error.value.value) == ("condition", conditions[-1])


def test_attributes_are_read_by_key_and_follow_num_samples_and_holdout(labelled):
    attributes = LSUNDataModule(labelled).attributes
    assert attributes.rows(["parity=odd"]).tolist() == [1, 3, 5, 7]
    assert attributes.rows(["big=yes"]).tolist() == [5, 6, 7]
    few = LSUNDataModule(labelled, num_samples=4)
    assert few.attributes.rows(["parity=odd"]).tolist() == [1, 3]
    assert few.attributes.values["big"] == [""]
    assert few.attributes.digest() == attributes.digest(4) != attributes.digest()
    assert LSUNDataModule(labelled, holdout=3).attributes.digest() == attributes.digest()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("key,a\nff,x\n", "names none of these images"),
        ("key,a\n00,x,y\n", "line 2 and the header differ in the number of fields"),
        ("key\n00\n", "its header is not key,name"),
        ("key,a,a\n00,x,y\n", "its header is not key,name"),
        ("", "its header is not key,name"),
        ("key,a,\n00,x,\n", "its header is not key,name"),
        ("00,x\n01,y\n", r"first line names the image 00\. Begin the file with the line key,name"),
        ("key,a\n00,x\n00,y\n", "line 3 repeats the key 00"),
        ('key,a\n00,"red\n01,blue\n', "cannot be read"),
        ('key,a\n00,"red\n01,blue"\n', "line 3 ends a value that spans lines. Is a quote missing?"),
        ('key,a\n00,"red"x\n', "cannot be read"),
        ("key;a\n00;x\n", "its header is not key,name"),
    ],
)
def test_a_table_that_is_malformed_or_of_other_images_is_refused(labelled, lines, message):
    (labelled / "attributes.csv").write_text(lines)
    with pytest.raises(InputError, match=message):
        _ = LSUNDataModule(labelled).attributes


@pytest.mark.parametrize(
    "lines", ["\ufeffkey,a\r\n00,x\r\n\r\n", 'key,"a"\n"00","x"\n\n\n', "key,a\r00,x", 'key, a\n00, "x"']
)
def test_byte_order_marks_line_ends_blank_lines_and_spaces(labelled, lines):
    (labelled / "attributes.csv").write_bytes(lines.encode())
    assert LSUNDataModule(labelled).attributes.rows(["a=x"]).tolist() == [0]


def test_images_without_a_line_have_no_labels(labelled, caplog):
    (labelled / "attributes.csv").write_text("key,parity,big\n01,odd,\n02,even,yes\n")
    with caplog.at_level("INFO", "glo_lightning"):
        attributes = LSUNDataModule(labelled).attributes
    assert "6 of 8 images have no labels" in caplog.text
    assert attributes.table.tolist() == [[-1, -1], [1, 0], [0, 1], *[[-1, -1]] * 5]
    assert attributes.rows(["big="]).tolist() == [1]
    assert not attributes.new_pairs(2)[[0, 3]].any()
    restored = Attributes.from_state(attributes.state())
    assert (restored.values, restored.digest()) == (attributes.values, attributes.digest())


def test_environment_json_has_the_digest_of_the_attributes(faces_run):
    data = json.loads((faces_run / "environment.json").read_text())[-1]["data"]
    assert data["attributes_sha256"] == LSUNDataModule(num_samples=96).attributes.digest()


def test_a_column_of_captions_is_left_out(labelled, monkeypatch, caplog):
    monkeypatch.setattr("glo_lightning.data.attributes.MAX_VALUES", 3)
    lines = [f"{row:02x},picture number {row},{row % 2}" for row in range(8)]
    (labelled / "attributes.csv").write_text("\n".join(["key,caption,parity", *lines]))
    assert list(LSUNDataModule(labelled).attributes.values) == ["parity"]
    assert "left out caption: an attribute may have 3 values" in caplog.text
    monkeypatch.setattr("glo_lightning.data.attributes.MAX_VALUES", 1)
    assert LSUNDataModule(labelled).attributes is None


def test_a_pipe_or_a_link_to_nothing_is_refused(tmp_path):
    """A pipe would be waited for."""
    for number, make in enumerate((os.mkfifo, lambda file: file.symlink_to("nowhere"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / "attributes.csv")
        with pytest.raises(InputError, match="is no file"):
            read_labels(folder, [b"a.png"])
