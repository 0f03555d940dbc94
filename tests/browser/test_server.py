"""The page's server without a browser: who is answered, what is refused, and that its commands make its pictures."""

import asyncio
import base64
import io
import shutil
import socket
import tempfile
import threading

import numpy as np
import pytest
import torch
from conftest import encode, flat_image
from PIL import Image
from programs import make, stands_in

from glo_lightning import load_run
from glo_lightning.explore.codes import codes_by_name
from glo_lightning.explore.encoder import fit_and_save_encoder

starlette = pytest.importorskip("starlette.testclient", reason="needs pip install -e '.[browse]'")

from glo_lightning.browser.address import Guard, listen  # noqa: E402
from glo_lightning.browser.requests import LatestOnly, SupersededError  # noqa: E402
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
    assert ask("samples", asked) == answer
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


def test_a_strip_is_what_its_command_writes(ask, client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    query = "name=5&name=9&name=70&path=line&steps=4"
    command = ask(f"strip.command?{query}")["command"]
    with Image.open(io.BytesIO(client.get(f"strip.png?{query}").content)) as shown:
        assert (make(command) == np.asarray(shown.convert("RGB"))).all()
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


def test_its_own_page_is_answered_and_may_load_nothing_from_elsewhere(client):
    for headers in ({}, {"Host": "localhost:8000"}, {"Origin": f"http://{HOST}"}, {"Host": "[::1]:8000"}):
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
        (lambda: b"no image", "upload x: is not an image (of no known format). Give a PNG, JPEG or WebP."),
        (lambda: b"", "upload x: is not an image"),
        (lambda: encode(flat_image(1))[:-40], "upload x: is not a whole image"),
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
        ("picture", {}, "path None: is not a string. Give a string, or a list."),
        ("picture", {**PICTURE, "weights": [1]}, "weights 1.0: are 1 for 2 images"),
        ("picture", {**PICTURE, "weights": [0, 0]}, "weights 0.0 0.0: must be from 0 to 1e6"),
        ("picture", {**PICTURE, "weights": [1, "a"]}, "weights [1, 'a']: is not a number"),
        ("picture", {**PICTURE, "weights": [1, 10**400]}, "weights [1, 1000"),
        ("picture", {**PICTURE, "path": "flow"}, "path flow: give one of line, arc"),
        ("picture", {**PICTURE, "names": ["1", "96"]}, "image 96: the run has 96 images"),
        ("picture", {**PICTURE, "names": ["1", "upload-99"]}, "upload upload-99: is no longer kept"),
        ("picture", {**PICTURE, "names": ["1", "mask=top"]}, "image mask=top: is not known"),
        ("picture", {"tab": "1", "name": "1", "moves": ["99"], "amounts": [1]}, "move 99: there is no such direction"),
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
        ("decode", {"name": "other.npy"}, "codes "),
    ],
)
def test_a_wrong_question_is_a_message(path, asked, line, client):
    answer = client.post(f"/{path}", json=asked)
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


def test_neighbours_are_the_nearest_codes(ask, session):
    near = [other["row"] for other in ask("image/17")["neighbours"]]
    distances = (session.run.codes - session.run.codes[17]).square().sum(1)
    assert near == distances.argsort()[1:9].tolist()


def test_the_map_is_kept_in_the_run_folder(session, faces_run, client, monkeypatch):
    assert client.get("/map").json() == {"map": None}
    session.map.add_tsne()
    drawn = client.get("/map").json()["map"]
    assert len(drawn) == 96
    assert {round(max(places) - min(places), 3) for places in zip(*drawn, strict=True)} & {1.0}
    monkeypatch.setattr("glo_lightning.browser.map._tsne", None)  # it is not made a second time
    again = Session(load_run(faces_run, "cpu"), faces_run)
    again.map.add_tsne()
    assert again.map.places["tsne"] == drawn
    (file,) = (faces_run / "maps").iterdir()
    file.unlink()
    file.parent.rmdir()


def test_the_thumbnails_are_the_images_in_the_order_of_the_map(session):
    with Image.open(io.BytesIO(session.map.thumbnails)) as sheet:
        tiles = np.asarray(sheet).reshape(10, 32, 10, 32, 3).transpose(0, 2, 1, 3, 4).reshape(100, 32, 32, 3)
    images = session.run.images(session.map.rows.tolist()).permute(0, 2, 3, 1).numpy()
    assert np.abs(tiles[:96].astype(int) - images).mean() < 7  # of JPEG
    assert np.abs(tiles[1:97].astype(int) - images).mean() > 12


def test_a_checkpoint_without_images_is_shown_without_neighbours(faces_run, tmp_path):
    (tmp_path / "alone.ckpt").write_bytes((faces_run / "checkpoints" / "last.ckpt").read_bytes())
    session = Session(load_run(tmp_path / "alone.ckpt", "cpu"), tmp_path / "alone.ckpt")
    about = session.about()
    assert (about["has_images"], about["attributes"], session.map.thumbnails) == (False, {}, None)
    image = session.image(5)
    assert image["neighbours"] == []
    assert "image" not in image
    assert pixels(image["made"]["image"]).shape == (32, 32, 3)
    (sample,) = session.samples("gaussian", 1, 0, 1.0, [], 2.0)["samples"]
    assert sample["near"] == []


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
        tasks = [asyncio.create_task(latest.run("a", lambda: make("a0", first)))]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(latest.run("a", lambda n=n: make(f"a{n}"))) for n in range(1, 5)]
        await asyncio.sleep(0.05)
        assert await latest.run("b", lambda: make("b0")) == "b0"  # while the first of tab a is being made
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
    session.filled(made["name"], encode(mask))
    assert asked
