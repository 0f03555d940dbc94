"""The page's server without a browser: who is answered, what is refused, and that its commands make its pictures."""

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import httpx
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, encode, flat_image
from forked import forks, wait_for
from PIL import Image
from programs import make, stands_in

from glo_lightning import load_run
from glo_lightning.explore.codes import codes_by_name
from glo_lightning.explore.encoder import fit_and_save_encoder
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.prior import PRIORS
from glo_lightning.progress import Progress, StoppedError

starlette = pytest.importorskip("starlette.testclient", reason="needs pip install -e '.[browse]'")

from glo_lightning.browser import filling, requests, server, tsne  # noqa: E402
from glo_lightning.browser.address import Guard, listen  # noqa: E402
from glo_lightning.browser.requests import LatestOnly, SupersededError, WorkQueue  # noqa: E402
from glo_lightning.browser.server import make_app  # noqa: E402
from glo_lightning.browser.session import Session  # noqa: E402

HOST = "127.0.0.1:8000"


@pytest.fixture(scope="module")
def session(faces_run):
    return Session(load_run(faces_run, "cpu"), faces_run, ["--accelerator", "cpu"])


@pytest.fixture
def client(session):
    app = Guard(make_app(session), "127.0.0.1", 8000)
    return starlette.TestClient(app, base_url=f"http://{HOST}", raise_server_exceptions=False)


@pytest.fixture
def ask(client):
    """ask("picture", {...}) -> the answer, which must not be an error."""

    def ask(path: str, asked: dict | bytes | None = None) -> dict:
        sent = {"content": asked} if isinstance(asked, bytes) else {"json": asked}
        answer = client.get(path) if asked is None else client.post(path, **sent)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask


def pixels(url: str) -> np.ndarray:
    """A picture that stands in the page, (H, W, 3)."""
    head, data = url.split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image)


def picture(ask, **asked) -> dict:
    return ask("picture", {"tab": "1", **asked})


def test_each_copied_command_makes_the_picture_that_it_stands_beside(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = encode(flat_image(77, size=50))
    (tmp_path / "a photo.png").write_bytes(photo)
    name = ask("upload?file=a photo.png&encode", photo)["name"]
    code = picture(ask, names=["5", "9"], weights=[0.3, 0.7], path="line")["code"]
    saved = ask("save", {"name": "mixed-1", "code": code})
    shown = {
        "image": ask("image/17")["made"],
        "line": picture(ask, names=["5", "9", "70"], weights=[0.25, 0.3, 0.45], path="line"),
        "arc": picture(ask, names=["5", name], weights=[0.2, 0.8], path="arc"),
        "between": picture(ask, names=[str(row) for row in range(8)], weights=[1 / 3, *[0.1] * 7], path="line"),
        "moved": picture(ask, name="5", moves=["1", "mask=respirator"], amounts=[-1.5, 0.4]),
        "mean": picture(ask, name=None, moves=[], amounts=[]),
        "saved": picture(ask, name=saved["name"], moves=["2"], amounts=[1.0]),
        "upload": picture(ask, name=name, moves=["2"], amounts=[1.0]),
        "label": ask("decode", {"name": "mask=respirator"}),
    }
    for kind, made in shown.items():
        assert stands_in(make(made["command"]), pixels(made["image"])), kind
    assert len({made["image"] for made in shown.values()}) == len(shown)
    assert not stands_in(make(saved["command"]), pixels(shown["line"]["image"]))
    assert stands_in(make(saved["command"] + " --overwrite"), pixels(ask("decode", {"name": "mixed-1.npy"})["image"]))


def test_samples_and_their_neighbours_are_those_of_their_command(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = {"prior": "gaussian", "num": 3, "seed": 5, "temperature": 0.7, "conditions": [], "guidance": 2}
    answer = ask("samples", asked)
    shown = make(answer["command"])
    for sample in answer["samples"]:
        for image in (sample["image"], *(near["image"] for near in sample["near"])):
            assert stands_in(shown, pixels(image))
    for sample in answer["samples"][1:]:
        alone = make(sample["command"])
        assert stands_in(alone, pixels(sample["image"]))
        assert not stands_in(alone, pixels(answer["samples"][0]["image"]))
    assert ask("samples", asked) == answer
    plain = ask("samples", {**asked, "neighbours": False})
    assert [sample["near"] for sample in plain["samples"]] == [[]] * 3
    assert ask("samples", {**asked, "seed": 6})["samples"] != answer["samples"]


def test_a_filled_image_is_that_of_its_command_and_keeps_what_is_known(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo, mask = encode(flat_image(77)), np.full((32, 32), 255, np.uint8)
    mask[8:20, 4:30] = 0
    (tmp_path / "photo.png").write_bytes(photo)
    (tmp_path / "mask.png").write_bytes(encode(mask))
    name = ask("upload?file=photo.png", photo)["name"]
    made = ask("fill", {"name": name, "mask": base64.b64encode(encode(mask)).decode()})
    shown = pixels(made["image"])
    assert np.abs(make(made["command"]).astype(int) - shown).max() <= 1
    assert (shown[mask > 0] == flat_image(77)[mask > 0]).all()
    assert (shown[mask == 0] != flat_image(77)[mask == 0]).any()


def test_a_training_image_is_filled_in_and_a_picture_unlike_the_set_is_told_by_two_numbers(ask, monkeypatch):
    monkeypatch.setattr(filling, "UNLIKE", 3.0)  # this run is hardly trained
    mask = np.full((32, 32), 255, np.uint8)
    mask[8:20, 4:30] = 0
    asked = {"mask": base64.b64encode(encode(mask)).decode()}
    target = ask("target", {"name": "17"})
    assert target["file"] == "image-17.png"
    assert (pixels(target["image"]) == pixels(ask("image/17")["image"])).all()
    made = ask("fill", {"name": "17", **asked})
    assert (pixels(made["image"])[mask > 0] == pixels(target["image"])[mask > 0]).all()
    assert " image-17.png --mask mask.png" in made["command"]
    assert made["note"] == ""
    noise = encode(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    name = ask("upload?file=noise.png", noise)["name"]
    for answer in (ask("fill", {"name": name, **asked}), ask("upload?file=noise.png&encode", noise)):
        reached, usual = map(float, re.findall(r"([\d.]+) dB", answer["note"]))
        assert reached < usual - 3
        assert "unlike" in answer["note"]


def test_a_saved_code_and_a_label_have_short_names(ask, client, session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = picture(ask, names=["5", "9"], weights=[0.5, 0.5], path="line")["code"]
    name = ask("save", {"name": "", "code": code})["name"]
    assert ask("save", {"name": "", "code": code})["name"] == name  # it is saved once
    image = ask("decode", {"name": name})["image"]
    assert {"name": name, "image": image} in ask("saved")["saved"]
    assert image == ask("decode", {"name": f"{name}.npy"})["image"]
    for typed in (name, f"{name}.npy"):  # on the command line, too
        assert torch.equal(codes_by_name(session.run, [typed]), torch.from_numpy(np.load(codes_file(session, name))))
    assert ask("decode", {"name": "respirator"})["image"] == ask("decode", {"name": "mask=respirator"})["image"]
    answer = client.post("/decode", json={"name": "respirators"})
    assert answer.json()["message"] == "image respirators: is not known; did you mean mask=respirator?"


def codes_file(session, name):
    return session.run.codes_folder / f"{name}.npy"


def test_a_strip_is_what_its_command_writes(ask, client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    query = "name=5&name=9&name=70&path=line&steps=4"
    strip = ask("strip", {"names": ["5", "9", "70"], "path": "line", "steps": 4})
    command = strip["command"]
    with Image.open(io.BytesIO(client.get(f"strip.png?{query}").content)) as shown:
        assert (make(command) == np.asarray(shown.convert("RGB"))).all()
        assert [len(row) for row in strip["rows"]] == [4, 4]
        assert all(stands_in(np.asarray(shown.convert("RGB")), pixels(image)) for row in strip["rows"] for image in row)
    (animation,) = tmp_path.glob("*.webp")
    with Image.open(io.BytesIO(client.get(f"strip.webp?{query}").content)) as shown, Image.open(animation) as written:
        assert shown.n_frames == written.n_frames > 1
        for frame in range(shown.n_frames):
            shown.seek(frame), written.seek(frame)
            assert (np.asarray(shown.convert("RGB")) == np.asarray(written.convert("RGB"))).all()


def test_a_flows_mixes_are_the_frames_of_its_strip(faces_run, monkeypatch):
    from glo_lightning.explore.editing import Mixer
    from glo_lightning.explore.flows import flow_path
    from glo_lightning.latents import identity
    from glo_lightning.priors.flow import Flow

    run = load_run(faces_run, "cpu")
    monkeypatch.setattr("glo_lightning.priors.flow.MIN_CODES", 20)
    flow = Flow(steps=20, width=16, blocks=1).fit(run.codes)
    monkeypatch.setattr("glo_lightning.explore.editing.fitted_flow", lambda run: flow)
    codes = run.codes[[3, 9]]
    path = flow_path(flow)(codes[0], codes[1], 5, run.model.project)
    mixer = Mixer(run, codes, "flow")
    alone = torch.stack([mixer((1 - part / 4, part / 4)) for part in range(5)])
    mixer.prepare([(0.25, 0.75)])
    torch.testing.assert_close(alone, path, atol=1e-5, rtol=0)
    torch.testing.assert_close(mixer((0.25, 0.75)), path[3], atol=1e-5, rtol=0)
    assert (path - identity(torch.lerp(codes[0], codes[1], torch.linspace(0, 1, 5)[:, None]))).abs().max() > 0.01


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "glo.example:8000"},
        {"Host": "127.0.0.1:8001"},
        {"Host": "192.168.1.7:8000"},
        {"Host": "127.0.0.1.glo.example:8000"},
        {"Host": "[:8000"},
        {"Host": "x@127.0.0.1:8000"},
        {"Host": "127.0.0.1:8000/about"},
        {"Host": "127.0.0.1:8000#x"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": ""},
        {"Origin": "http://glo.example"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Origin": "https://127.0.0.1:8000"},
        {"Origin": "null"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/", "/about", "/save"])
def test_another_host_or_origin_is_refused(headers, path, client):
    answer = client.post(path, headers=headers) if path == "/save" else client.get(path, headers=headers)
    assert (answer.status_code, answer.text) == (403, "this server only answers its own page")


OWN_SITES = ({"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"})  # the page's, and a typed address


def test_its_own_page_is_answered_and_may_load_nothing_from_elsewhere(client):
    for headers in ({}, {"Host": "localhost:8000"}, {"Origin": f"http://{HOST}"}, {"Host": "[::1]:8000"}, *OWN_SITES):
        answer = client.get("/", headers=headers)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    content = "".join(client.get(path).text for path in ("/", "/page.css", "/page.js"))
    assert "//" not in content.replace("// ", "").replace("<!doctype", "")


def test_others_are_answered_by_address_where_it_listens_to_them(session):
    guard = Guard(make_app(session), "0.0.0.0", 8000)
    assert guard.is_mine("192.168.1.7:8000")
    assert not guard.is_mine("glo.example:8000")  # a name of another site's can be made to lead here


SECRETS = ["../secret.png", "/etc/hostname", "secret.png", "..%2fsecret.png", "../run/config.yaml", "secret.npy", "-1"]


@pytest.mark.parametrize("name", SECRETS)
def test_no_path_can_be_read(name, client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.png").write_bytes(encode(flat_image(3)))
    for path in (f"/{name}", f"/page/{name}", f"/strip.{name}"):
        assert client.get(path).status_code in (400, 404)
    asked = [{"names": [name], "weights": [1], "path": "line"}, {"name": name, "moves": [], "amounts": []}]
    for answer in (
        *(client.post("/picture", json={"tab": "1", **some}) for some in asked),
        client.post("/decode", json={"name": name}),
        client.get("/strip.png", params={"name": [name, "1"], "path": "line", "steps": 3}),
        client.post("/fill", json={"name": name, "mask": ""}),
    ):
        assert answer.status_code == 400
        assert "secret.png" not in answer.json()["message"] or "secret.png" in name


def animated(file_format: str) -> bytes:
    file = io.BytesIO()
    first, second = (Image.fromarray(flat_image(value)) for value in (1, 200))
    first.save(file, file_format, save_all=True, append_images=[second])
    return file.getvalue()


def huge(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (lambda: b"no image", "upload x: is not an image (of no supported format, or damaged). Give a PNG"),
        (lambda: b"", "upload x: is not an image"),
        (lambda: encode(flat_image(1))[:-40], "upload x: is not an image"),
        (lambda: animated("GIF"), "upload x: is animated. Give a still image."),
        (lambda: animated("WEBP"), "upload x: is animated. Give a still image."),
        (lambda: huge(10_000, 6_000), "upload x: has more than 50 megapixels. Make it smaller."),
        (lambda: huge(10_000, 10_000), "upload x: has more than 50 megapixels. Make it smaller."),
        (lambda: huge(20_000, 20_000), "upload x: is not an image (Image size (400000000 pixels)"),
        (lambda: bytes(21_000_000), "upload 21.0 MB: is too much. Send at most 20 MB."),
    ],
)
def test_an_upload_that_is_no_image_to_take_is_a_message(record, line, client):
    answer = client.post("/upload?file=x", content=record())
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(line)


PICTURE = {"tab": "1", "names": ["1", "2"], "weights": [1, 1], "path": "line"}
SAMPLES = {"prior": "gaussian", "num": 3, "seed": 0, "temperature": 1, "conditions": [], "guidance": 2}
CODE = base64.b64encode(np.zeros(6, np.float32).tobytes()).decode()


@pytest.mark.parametrize(
    ("path", "asked", "line"),
    [
        ("picture", [], "request body: is not a JSON object"),
        ("picture", {}, "names None: is not a list of at most 256. Give one."),
        ("picture", {**PICTURE, "path": None}, "path None: is not a string. Give one."),
        ("picture", {**PICTURE, "path": ["line"]}, "path ['line']: is not a string. Give one."),
        ("picture", {**PICTURE, "names": [], "weights": []}, "names : there are none. Give one or more."),
        ("picture", {**PICTURE, "names": ["1"] * 257}, "names ['1', '1',"),
        ("picture", {**PICTURE, "names": ["\ud800", "1"]}, "image \ud800: is not known"),
        ("picture", {**PICTURE, "tab": []}, "tab []: is not a string. Give one."),
        ("picture", {**PICTURE, "weights": [True, 1]}, "weights True: is not a number. Give one."),
        ("picture", {**PICTURE, "weights": [1]}, "weights 1.0: are 1 for 2 images"),
        ("picture", {**PICTURE, "weights": [0, 0]}, "weights 0.0 0.0: must be from 0 to 1e6"),
        ("picture", {**PICTURE, "weights": [1, "a"]}, "weights 'a': is not a number"),
        ("picture", {**PICTURE, "weights": [1, 10**400]}, "weights 1000"),
        ("picture", {**PICTURE, "path": "flow"}, "path flow: give one of line, arc"),
        ("picture", {**PICTURE, "names": ["1", "96"]}, "image 96: the run has 96 images"),
        ("picture", {**PICTURE, "names": ["1", "upload-99"]}, "upload upload-99: is no longer kept"),
        ("picture", {**PICTURE, "names": ["1", "mask=top"]}, "image mask=top: is not known"),
        ("picture", {"tab": "1", "name": "1", "moves": ["99"], "amounts": [1]}, "move 99: there is no such direction"),
        ("picture", {"tab": "1", "name": [], "moves": [], "amounts": []}, "name []: is not a string"),
        ("picture", {"tab": "1", "name": "1", "moves": ["1", "2"], "amounts": [1]}, "amounts 1: are for 2 directions"),
        ("picture", {"tab": "1", "name": "1", "moves": ["1"], "amounts": [1e29]}, "move 1:1e+29: must move by at most"),
        ("samples", {**SAMPLES, "num": True}, "num True: is out of range"),
        ("samples", {**SAMPLES, "seed": False}, "seed False: is out of range"),
        ("samples", {**SAMPLES, "temperature": []}, "temperature []: is not a number"),
        ("samples", {**SAMPLES, "guidance": []}, "guidance []: is not a number"),
        ("samples", {**SAMPLES, "guidance": 101}, "guidance 101.0: must be from 0 to 100"),
        ("samples", {**SAMPLES, "prior": "os.system"}, "prior os.system: give one of"),
        ("samples", {**SAMPLES, "prior": "flow"}, "prior flow: 96 codes are too few"),
        ("samples", {**SAMPLES, "num": 65}, "num 65: is out of range. Give a whole number from 1 to 64."),
        ("samples", {**SAMPLES, "seed": -1}, "seed -1: is out of range"),
        ("samples", {**SAMPLES, "temperature": 0}, "temperature 0.0: must be more than 0"),
        ("samples", {**SAMPLES, "conditions": ["mask=top"]}, "condition mask=top: mask has no value 'top'"),
        ("fill", {"name": "upload-99", "mask": ""}, "upload upload-99: is no longer kept"),
        ("save", {"name": "../x", "code": CODE}, "name ../x: has other characters. Give letters, digits, - and _"),
        ("save", {"name": "x", "code": CODE[:-4]}, "code AAAAAAAAAAAAAAAAAAAA: is not a code"),
        ("save", {"name": "x", "code": "%"}, "code %: is not a code"),
        ("save", {"name": "x", "code": "\u00e9"}, "code \u00e9: is not a code"),
        ("decode", {"name": "other.npy"}, "code file "),
        ("strip", {"names": ["1"], "path": "line", "steps": 3}, "images 1: a strip is between images. Give 2 to 8."),
        ("strip", {"names": ["1"] * 9, "path": "line", "steps": 3}, "images 9: a strip is between images"),
        ("strip", {"names": ["1", "2"], "path": "line", "steps": True}, "steps True: is out of range"),
    ],
)
def test_a_wrong_question_is_a_message(path, asked, line, client):
    answer = client.post(f"/{path}", content=json.dumps(asked))
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(line)


@pytest.mark.parametrize(
    "content", [b"{", b"[" * 100_000, b"\xff", b"0" * 300_000], ids=["half", "deep", "binary", "long"]
)
def test_what_is_no_json_is_a_message(content, client):
    assert client.post("/picture", content=content).status_code == 400


def test_a_mask_that_covers_all_or_is_of_another_size_is_a_message(ask, client):
    name = ask("upload?file=x.png", encode(flat_image(7)))["name"]
    for size, line in ((32, "mask painted: leaves no pixel"), (31, "mask painted: is of 31x31 pixels. Give one of")):
        mask = base64.b64encode(encode(np.zeros((size, size), np.uint8))).decode()
        answer = client.post("/fill", json={"name": name, "mask": mask})
        assert answer.status_code == 400
        assert answer.json()["message"].startswith(line)


def test_a_saved_code_of_another_run_is_a_message_and_a_name_is_given_once(ask, client, faces_run):
    ask("save", {"name": "again", "code": CODE})
    answer = client.post("/save", json={"name": "again", "code": CODE})
    assert (answer.status_code, answer.json()["message"]) == (400, "name again: is taken. Give another.")
    (faces_run / "codes" / "again.npy.json").write_text('{"run": "another"}')
    answer = client.post("/decode", json={"name": "again.npy"})
    assert answer.status_code == 400
    assert "was saved from another run" in answer.json()["message"]


def test_nothing_is_written_but_what_is_saved(ask, client, faces_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = {path for path in faces_run.rglob("*") if path.parent.name != "codes"}
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1200, 3), np.uint8)  # 4 MB: spooled to the disk by others
    ask("upload?file=x.png&encode", encode(noise))
    ask("samples", SAMPLES)
    assert client.get("/strip.webp?name=1&name=2&path=line&steps=3").status_code == 200
    assert {path for path in faces_run.rglob("*") if path.parent.name != "codes"} == before
    assert not list(tmp_path.iterdir())


def test_images_are_found_by_index_key_and_label(ask, client, session):
    assert ask("find?text=17")["rows"] == [17]
    assert ask("find?text=0000003f")["rows"] == [63]
    rows = ask("find?text=medicalMask")["rows"]
    assert rows == ask("find?text=mask=medicalMask")["rows"]
    assert 0 < len(rows) < 96
    assert all("mask=medicalMask" in ask(f"image/{row}")["attributes"] for row in rows)
    answer = client.get("/find?text=nothing")
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        "search nothing: no image has this index, key or label. Try another.",
    )


def test_neighbours_are_the_nearest_codes_by_the_cosine_from_their_mean(ask, session):
    near = [other["row"] for other in ask("image/17")["neighbours"]]
    codes = session.run.codes - session.run.codes.mean(0)
    assert near == torch.cosine_similarity(codes, codes[17:18]).argsort(descending=True)[1:9].tolist()


def test_the_map_is_kept_in_the_run_folder(session, faces_run, client, monkeypatch):
    assert client.get("/map").json() == {"map": None, "work": None}
    session.map.add_tsne()
    drawn = client.get("/map").json()["map"]
    assert len(drawn) == 96
    assert {round(max(places) - min(places), 3) for places in zip(*drawn, strict=True)} & {1.0}
    monkeypatch.setattr("glo_lightning.browser.map.find_places", None)  # it is not made a second time
    again = Session(load_run(faces_run, "cpu"), faces_run)
    again.map.add_tsne()
    assert again.map.places["tsne"] == drawn
    (file,) = (faces_run / "maps").iterdir()
    header = file.read_bytes().replace(b"shape", b"sh(pe")  # numpy raises a SyntaxError
    for damaged in (b"", header, file.read_bytes()[:200]):
        file.write_bytes(damaged)
        with pytest.raises(TypeError, match="not callable"):  # it would be made again
            again.map.add_tsne()
    file.unlink()
    file.parent.rmdir()


def sheets_of(client, about: dict) -> np.ndarray:
    """All tiles of the map, (n, 32, 32, 3)."""
    sheets = [np.asarray(Image.open(io.BytesIO(client.get(path).content))) for path in about["sheets"]]
    tiles = [sheet.reshape(16, 32, 16, 32, 3).transpose(0, 2, 1, 3, 4).reshape(256, 32, 32, 3) for sheet in sheets]
    return np.concatenate(tiles)


def test_the_thumbnails_are_the_images_in_the_order_of_the_map(session, client, ask, monkeypatch):
    monkeypatch.setattr(session.map, "rows", session.run.rows.repeat(3).flip(0))  # of two sheets
    monkeypatch.setattr(session.map, "_sheets", {})
    about = ask("about")
    assert about["sheets"] == ["thumbnails/0", "thumbnails/1"]
    tiles = sheets_of(client, about)
    images = session.run.images(session.map.rows.tolist()).permute(0, 2, 3, 1).numpy()
    assert np.abs(tiles[:288].astype(int) - images).mean() < 7  # of JPEG
    assert np.abs(tiles[1:289].astype(int) - images).mean() > 12
    assert client.get("thumbnails/2").status_code == client.get("thumbnails/x").status_code == 400


def test_the_map_is_told_labels_and_how_well_each_image_is_reconstructed(ask, client, session):
    numbers = ask("labels?name=mask")["numbers"]
    values, rows = session.run.attributes.values["mask"], session.map.rows.tolist()
    worn = [row for row, number in zip(rows, numbers, strict=True) if values[number] == "medicalMask"]
    assert worn == session.run.rows_with(["mask=medicalMask"]).tolist() != []
    assert client.get("labels?name=hat").json()["message"].startswith("labels hat: there is no such attribute")
    psnr, image = ask("psnr")["psnr"], ask("image/17")
    errors = (pixels(image["image"]) / 255 - pixels(image["made"]["image"]) / 255) ** 2
    assert psnr[rows.index(17)] == image["psnr"] == pytest.approx(-10 * np.log10(errors.mean()), abs=0.1)


def test_a_checkpoint_without_images_is_shown_by_what_its_generator_makes(faces_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alone.ckpt").write_bytes((faces_run / "checkpoints" / "last.ckpt").read_bytes())
    session = Session(load_run(tmp_path / "alone.ckpt", "cpu"), tmp_path / "alone.ckpt")
    client = starlette.TestClient(Guard(make_app(session), "127.0.0.1", 8000), base_url=f"http://{HOST}")
    about, image = session.about(), session.image(5)
    assert not about["has_images"]
    assert about["attributes"] == load_run(faces_run, "cpu").data.attributes.values  # they go with the run
    made = pixels(image["made"]["image"])
    assert made.shape == (32, 32, 3)
    assert image["image"] == image["made"]["image"]
    assert np.abs(sheets_of(client, about)[about["rows"].index(5)].astype(int) - made).mean() < 7  # of JPEG
    assert len(image["neighbours"]) == 8
    assert session.images.find("mask=respirator") == session.run.rows_with(["mask=respirator"]).tolist()
    assert client.get("psnr").json()["message"].endswith("needs the training images. Give --data.root.")
    (sample,) = session.samples("gaussian", 1, 0, 1.0, [], 2.0)["samples"]
    assert [near["by"] for near in sample["near"]] == ["code"]
    mixed, moved = session.mixed(["5", "9"], [0.5, 0.5], "line"), session.moved("5", ["mask=respirator"], [1.0])
    for made in (mixed, moved, sample, image["made"]):
        assert stands_in(make(made["command"]), pixels(made["image"]))


def test_of_many_codes_five_thousand_are_on_the_map(faces_run, monkeypatch):
    monkeypatch.setattr("glo_lightning.browser.map.MAX_SHOWN", 50)
    session = Session(load_run(faces_run, "cpu"), faces_run)
    rows = session.about()["rows"]
    assert len(set(rows)) == len(session.about()["map"]) == 50
    assert rows != list(range(50))
    assert rows == sorted(rows)


def test_the_newest_position_of_a_tab_wins_and_tabs_do_not_wait_for_each_other():
    made: list[str] = []
    first = threading.Event()

    def make(name: str, until: threading.Event | None = None) -> str:
        assert until is None or until.wait(10)
        made.append(name)
        return name

    async def all_of_them():
        latest = LatestOnly()

        def run(name: str, until: threading.Event | None = None):
            return latest.run(name[0], lambda: asyncio.to_thread(make, name, until))

        tasks = [asyncio.create_task(run("a0", first))]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(run(f"a{n}")) for n in range(1, 5)]
        await asyncio.sleep(0.05)
        assert await run("b0") == "b0"  # while the first of tab a is being made
        first.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(all_of_them())
    assert made == ["b0", "a0", "a4"]
    assert [isinstance(result, SupersededError) for result in results] == [False, True, True, True, False]


def test_the_first_free_port_is_taken_and_one_in_use_is_named():
    from glo_lightning.errors import InputError

    with listen("127.0.0.1", None) as one, listen("127.0.0.1", None) as two:
        ports = [listening.getsockname()[1] for listening in (one, two)]
        assert 8000 <= ports[0] < ports[1]
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # else each answer waits for 40 ms
        with pytest.raises(InputError, match=f"port {ports[0]}: cannot be opened .Address already in use"):
            listen("127.0.0.1", ports[0])
    for host, port in (("no.such.host.invalid", None), ("127.0.0.1", 70000)):
        with pytest.raises(InputError):
            listen(host, port)


GETS = [
    "/",
    "/page.css",
    "/page.js",
    "/thumbnails/0",
    "/labels?name=mask",
    "/psnr",
    "/about",
    "/map",
    "/image/3",
    "/find?text=17",
]
GETS += [f"/strip.{kind}?name=1&name=2&path={path}&steps=3" for kind in ("png", "webp") for path in ("line", "flow")]


def test_a_get_fits_nothing_and_writes_nothing(faces_run, monkeypatch):
    """A page of another site, which a browser without Sec-Fetch-Site shows, could ask for it by an image."""
    monkeypatch.setattr("glo_lightning.priors.flow.MIN_CODES", 20)
    monkeypatch.setitem(PRIORS, "flow", lambda: Flow(steps=4, width=8, blocks=1))
    session = Session(load_run(faces_run, "cpu"), faces_run)
    client = starlette.TestClient(make_app(session), base_url=f"http://{HOST}")
    before = sorted(faces_run.rglob("*"))
    statuses = {path: client.get(path).status_code for path in GETS}
    assert {path for path, status in statuses.items() if status == 400} == {path for path in GETS if "flow" in path}
    assert sorted(faces_run.rglob("*")) == before
    strip = client.post("/strip", json={"names": ["1", "2"], "path": "flow", "steps": 3})
    assert strip.status_code == 200  # fits the flow, which the files of the strip then need
    assert all(client.get(path).status_code == 200 for path in GETS if "flow" in path)
    shutil.rmtree(faces_run / "priors")


class Blocked:
    """A session whose images and samples wait for ``until``; ``most`` of them waited at once."""

    def __init__(self, session):
        self.session, self.until, self.lock = session, threading.Event(), threading.Lock()
        self.running = self.most = 0

    def __getattr__(self, name):
        return getattr(self.session, name)

    def image(self, row):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.until.wait(10)
        with self.lock:
            self.running -= 1
        return {}

    def samples(self, *_, **__):
        return self.image(0)


def ask_at_once(session, requests, done) -> list[int]:
    """The statuses of requests that come at once; ``until`` is set when those numbers of requests are done."""

    async def ask():
        transport = httpx.ASGITransport(make_app(session))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
            tasks = [asyncio.create_task(client.request(method, path, json=body)) for method, path, body in requests]
            while sum(task.done() for task in tasks) < done or not session.running:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert sum(task.done() for task in tasks) == done
            session.until.set()
            return [(await task).status_code for task in tasks]

    return asyncio.run(asyncio.wait_for(ask(), 20))


IMAGE, DRAW = ("GET", "/image/3", None), ("POST", "/samples", SAMPLES)


@pytest.mark.parametrize(
    ("request_", "num", "most", "answered"),
    [(IMAGE, 40, 2, 40), (IMAGE, 70, 2, 62), (DRAW, 12, 1, 9)],
    ids=["quick", "too many", "slow"],
)
def test_requests_at_once_wait_in_a_queue_and_too_many_are_refused(session, request_, num, most, answered):
    blocked = Blocked(session)
    statuses = ask_at_once(blocked, [request_] * num, num - answered)
    assert blocked.most == most
    assert (statuses.count(200), statuses.count(503)) == (answered, num - answered)


def test_a_quick_picture_does_not_wait_for_long_work(session):
    blocked = Blocked(session)
    blocked.samples, blocked.image = lambda *_, **__: Blocked.image(blocked, 0), session.image
    assert ask_at_once(blocked, [DRAW, DRAW, IMAGE], 1) == [200] * 3


class Dropped:
    """A request whose page is closed while ``make`` runs."""

    def __init__(self):
        self.asked = 0

    async def is_disconnected(self):
        self.asked += 1
        return self.asked > 1


def test_long_work_tells_how_far_it_is_and_stops_when_nobody_waits_for_it():
    queue, seen = WorkQueue(1, 1), []

    def make():
        for step in Progress(range(100_000), "fitting the flow", hidden=True, mininterval=0):
            time.sleep(0.002)
            seen.append((step, queue.work.about))

    with pytest.raises(StoppedError):
        asyncio.run(queue.run(Dropped(), make))
    step, about = seen[-1]
    assert step < 99_999
    assert (about["what"], about["done"]) == ("fitting the flow", pytest.approx(step / 100_000, abs=2e-4))
    assert about["left"] > 100  # seconds
    assert queue.work.about is None


def test_t_sne_is_computed_in_a_process_of_its_own_and_stopped(faces_run, monkeypatch):
    monkeypatch.setattr(tsne, "FEW", 10)
    monkeypatch.setattr(tsne, "ITERATIONS", 10**6)
    client = starlette.TestClient(make_app(Session(load_run(faces_run, "cpu"), faces_run)), base_url=f"http://{HOST}")
    answers = []
    client.post("/tsne", json={"wanted": True})
    wait_for(lambda: answers.append(client.get("/map").json()) or answers[-1]["work"])
    client.post("/tsne", json={"wanted": False})
    wait_for(lambda: client.get("/map").json()["work"] is None)
    assert client.get("/map").json()["map"] is None
    assert answers[-1]["work"]["what"] == "computing t-SNE"
    codes = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    np.testing.assert_allclose(tsne.find_places(codes), tsne._tsne(codes), atol=1e-4)


def test_uploads_at_once_have_names_of_their_own(session):
    with ThreadPoolExecutor(8) as threads:
        uploads = list(threads.map(lambda n: session.upload(encode(flat_image(n)), f"{n}.png", False), range(40)))
    assert len({upload["name"] for upload in uploads}) == 40
    assert all((pixels(upload["image"])[0, 0] == (n, 0, 0)).all() for n, upload in enumerate(uploads))


VALUES = [None, True, False, 0, 1, -1, 3, 2**31, 10**400, 0.5, 1e29, 1e300, "", "1", "96", "mask=respirator", "arc"]
VALUES += ["upload-1", "a.npy", "flow", "\ud800", "\0", "\u00e9", "../x", CODE]
VALUES += [[], [1], ["1"], ["1", "2"], [1, 1], [[]], {}]


def test_no_body_is_a_failure_of_the_server(session):
    """The fields of each request are replaced by random values, left out, or cut as text."""
    random, app = Random(0), make_app(session)
    client = starlette.TestClient(app, base_url=f"http://{HOST}", raise_server_exceptions=False)
    bodies = {
        "picture": [PICTURE, {"tab": "1", "name": "1", "moves": ["1"], "amounts": [1]}],
        "samples": [SAMPLES],
        "decode": [{"name": "1"}],
        "fill": [{"name": "upload-1", "mask": base64.b64encode(encode(flat_image(0))).decode()}],
        "save": [{"name": "fuzz", "code": CODE}],
        "strip": [{"names": ["1", "2"], "path": "line", "steps": 2}],
    }
    name = client.post("/upload?file=x.png", content=encode(flat_image(7))).json()["name"]
    for path, body in ((path, body) for path, some in bodies.items() for body in some for _ in range(30)):
        body = {key: name if value == "upload-1" else value for key, value in body.items()}
        for key in random.sample(sorted(body), random.randint(1, min(2, len(body)))):
            body[key] = random.choice(VALUES)
        content = json.dumps(body)[: random.choice([None, None, None, random.randint(0, 60)])]
        answer = client.post(f"/{path}", content=content)
        assert answer.status_code in (200, 400), (path, content, answer.text)
        assert answer.json()
    (session.run.codes_folder / "fuzz.npy").unlink(missing_ok=True)


ADDRESSES = ["/image/-1", "/image/96", "/image/", f"/image/{'9' * 5000}", "/image/%ff", "/image/\u0663"]
ADDRESSES += ["/strip.png", "/strip.png?steps=3", "/strip.?steps=2", "/strip.gif?steps=3"]
ADDRESSES += [f"/strip.webp?name=1&name=2&path=line&steps={steps}" for steps in ("66", "\u0663", "-3")]
ADDRESSES += ["/thumbnails/-1", "/thumbnails/1", "/labels", "/labels?name=%ff"]
ADDRESSES += ["/find", "/find?text=%ff%00", "/nothing", "/upload"]


def browse(run: str, output: str) -> None:
    """scripts/browse.py in a process of its own, impatient with clients; its samples take minutes."""
    for number in (1, 2):
        os.dup2(os.open(f"{output}.{number}", os.O_WRONLY | os.O_CREAT), number)
    requests.MAX_SECONDS = server.MAX_SECONDS = 1
    Session.samples = lambda *_, **__: time.sleep(100)
    sys.argv = ["browse.py", run, "--no_open", "--accelerator", "cpu"]
    runpy.run_path(str(REPOSITORY / "scripts" / "browse.py"), run_name="__main__")


def test_slow_clients_are_dropped_and_ctrl_c_ends_at_once_during_long_work(faces_run, tmp_path):
    output, errors = tmp_path / "out.1", tmp_path / "out.2"
    process = forks.Process(target=browse, args=(str(faces_run), str(tmp_path / "out")))
    process.start()
    wait_for(lambda: output.exists() and "Ctrl-C" in output.read_text())
    port = int(re.search(r"http://127.0.0.1:(\d+)/", output.read_text())[1])  # after a line of the cache, perhaps
    host = f"Host: 127.0.0.1:{port}\r\n"
    samples = f"POST /samples HTTP/1.1\r\n{host}Content-Length: 999\r\n\r\n{json.dumps(SAMPLES):999}"
    half = f"POST /decode HTTP/1.1\r\n{host}Content-Length: 99\r\n\r\n{{"
    with contextlib.ExitStack() as clients:

        def connect(sent: str) -> socket.socket:
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            client.sendall(sent.encode())
            return client

        silent, headers, body = map(connect, ("", "GET / HT", half))
        assert silent.recv(9) == headers.recv(9) == b""  # closed
        assert b"took more than 1 s" in b"".join(iter(lambda: body.recv(9999), b""))
        for _ in range(4):
            connect(samples)
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGINT)
        process.join(10)
    status = process.exitcode
    process.kill()
    assert status == 130
    assert errors.read_text().endswith("\nstopped\n")
    assert "Traceback" not in errors.read_text()


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_address_is_a_failure_of_the_server(address, client):
    assert client.get(address).status_code in (400, 404, 405)


def test_no_upload_is_a_failure_of_the_server(client):
    """Images of several formats, with bytes changed, cut, and emptied."""
    random = Random(0)
    for file_format in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        record = encode(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8), file_format)
        for _ in range(12):
            damaged = bytearray(record)
            for _ in range(random.randint(1, 8)):
                damaged[random.randrange(len(damaged))] = random.randrange(256)
            content = bytes(damaged[: random.choice([None, None, random.randrange(len(damaged))])])
            name = random.choice(["x", "../a b", "\0", "-1"])
            answer = client.post("/upload", params={"file": name}, content=content)
            assert answer.status_code in (200, 400), answer.text


def test_uploads_and_filled_images_start_from_the_runs_encoder(faces_run, tmp_path):
    pytest.importorskip("safetensors.torch", reason="needs the extra export")
    run = load_run(shutil.copytree(faces_run, tmp_path / "run"), "cpu")
    fit_and_save_encoder(run)
    (tmp_path / "photo.png").write_bytes(encode(flat_image(77, size=50)))
    session = Session(run, tmp_path / "run")
    made = session.upload((tmp_path / "photo.png").read_bytes(), "photo.png", encode=True)
    code = np.frombuffer(base64.b64decode(made["made"]["code"]), np.float32)
    assert np.array_equal(code, codes_by_name(run, [str(tmp_path / "photo.png")])[0])
    asked = []
    session.encoder.register_forward_hook(lambda *_: asked.append(1))
    mask = np.full((32, 32), 255, np.uint8)
    mask[4:20, 3:] = 0
    session.filler.fill(made["name"], encode(mask))
    assert asked
