"""scripts/make_faces.py with a stand-in for Node, which draws flat images."""

import csv
import os
import runpy
import stat
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from programs import call

from glo_lightning import LSUNDataModule

# Draws one colour for each seed's first byte, so that faces repeat, and knows 4 heads and 4 faces.
NODE = f"""#!{sys.executable}
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    number = int(asked["seed"][:2], 16)
    face = {{"head": f"head{{number % 4}}", "face": f"face{{number // 4 % 4}}", "glasses": "", "beard": ""}}
    if "accessories" in asked["options"]:
        face["glasses"] = asked["options"]["accessories"][0]
    sys.stdout.write(json.dumps(face) + "\\n")
    sys.stdout.flush()
    sys.stdout.buffer.write(bytes([number, 0, asked["options"].get("rotate", 0) % 256, 255]) * asked["size"] ** 2)
    sys.stdout.buffer.flush()
"""


@pytest.fixture
def node(tmp_path, monkeypatch):
    """node(text): has ``node`` be this program."""

    def make(text: str) -> None:
        file = tmp_path / "bin" / "node"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{file.parent}{os.pathsep}{os.environ['PATH']}")

    make(NODE)
    return make


def make_faces(*arguments: object) -> tuple[int, str, list[str]]:
    return call("make_faces", *arguments)


@pytest.fixture
def rule(monkeypatch):
    """Whether a pair of head and face is kept out of training."""
    return runpy.run_path(str(REPOSITORY / "scripts" / "make_faces.py"))["withheld"]


def described(folder):
    with open(folder / "attributes.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_faces_differ_and_parts_follow_one_another(node, rule, tmp_path):
    status, said, _ = make_faces(tmp_path / "faces", "--num", 40, "--holdout", 10, "--size", 8)
    assert status == 0
    faces = described(tmp_path / "faces")
    assert [face["key"] for face in faces] == [f"0{n:07x}" for n in range(40)] + [f"1{n:07x}" for n in range(10)]
    assert not any(map(rule, faces))
    data = LSUNDataModule(tmp_path / "faces", image_size=8, holdout=10)
    assert data.num_images == 40
    colours = [int(data.dataset[row][0][0, 0, 0]) for row in range(50)]
    assert len(set(colours)) == 50
    assert int(said.split(" faces, ")[1].split(" ")[0]) > 0  # repeats
    for row in (0, 7, 45):  # an image and its line belong together
        assert faces[row]["head"] == f"head{colours[row] % 4}"


def test_fewer_faces_are_a_prefix_and_moved_faces_are_the_same_faces_elsewhere(node, tmp_path):
    make_faces(tmp_path / "many", "--num", 30, "--size", 8)
    make_faces(tmp_path / "moved", "--num", 12, "--size", 8, "--moved")
    assert described(tmp_path / "many")[:12] == described(tmp_path / "moved")
    blue = LSUNDataModule(tmp_path / "moved", image_size=8).dataset.images[:, 2, 0, 0]
    assert len(blue.unique()) > 6


def test_unseen_faces_are_those_that_training_lacks(node, rule, tmp_path):
    make_faces(tmp_path / "faces", "--num", 20, "--unseen", 4, "--size", 8)
    faces = described(tmp_path / "faces")
    assert [rule(face) for face in faces] == [False] * 20 + [True] * 4
    assert [face["key"][0] for face in faces[20:]] == ["2"] * 4


def test_attributes_can_be_asked_for(node, tmp_path):
    make_faces(tmp_path / "faces", "--num", 5, "--size", 8, "--given", "glasses=sunglasses")
    assert {face["glasses"] for face in described(tmp_path / "faces")} == {"sunglasses"}


@pytest.mark.parametrize(
    ("printed", "remedy"),
    [
        ("Error [ERR_MODULE_NOT_FOUND]: Cannot find package", "run npm install --no-save"),
        ("SyntaxError: strange", "SyntaxError: strange; it needs Node.js 18"),
    ],
)
def test_what_node_lacks_is_one_line_and_nothing_is_left(node, tmp_path, printed, remedy):
    node(f"#!/bin/sh\necho '{printed}' >&2; exit 1\n")
    *_, (*_, line) = make_faces(tmp_path / "faces", "--num", 3, "--size", 8)
    assert remedy in line
    assert not (tmp_path / "faces").exists()


def test_without_node_the_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    *_, (*_, line) = make_faces(tmp_path / "faces", "--num", 3)
    assert line.startswith("node: was not found; install Node.js 18")
    assert not (tmp_path / "faces").exists()


def test_wrong_numbers_and_an_output_that_is_there_are_one_line(tmp_path):
    assert "give at least one face" in str(make_faces(tmp_path / "faces", "--num", 0)[2])
    assert "exists already" in str(make_faces(tmp_path, "--num", 3)[2])


@pytest.mark.skipif(
    not (REPOSITORY / "node_modules" / "@dicebear").is_dir(), reason="the npm packages are not installed"
)
def test_the_shipped_faces_are_made_so(tmp_path):
    command = [sys.executable, REPOSITORY / "scripts" / "make_faces.py", tmp_path / "faces", "--num", "40"]
    subprocess.run(command, check=True, capture_output=True)
    made, shipped = LSUNDataModule(tmp_path / "faces"), LSUNDataModule(num_samples=40)
    assert all(made.source.read(row) == shipped.source.read(row) for row in range(40))
    assert made.attributes.digest() == shipped.attributes.digest()
