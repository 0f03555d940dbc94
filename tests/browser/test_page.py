"""The page in a real browser: headless Chromium, on a server in this process or on scripts/browse.py."""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, encode, flat_image
from PIL import Image
from programs import make, refusal, stands_in
from test_server import huge, pixels

from glo_lightning import load_run
from glo_lightning.progress import Progress

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CPU = ("--accelerator", "cpu")
MISSING = "there is no Chromium here (apt-get install chromium)"
SIZE = {"width": 1280, "height": 800}
SHOWN_RUN, PICTURES = os.environ.get("GLO_BROWSE_RUN"), os.environ.get("GLO_BROWSE_PICTURES")
CACHE = os.environ.get("XDG_CACHE_HOME", "")  # before the suite gives itself one
playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install -e '.[test]'")
uvicorn = pytest.importorskip("uvicorn", reason="needs pip install -e '.[browse]'")
pytestmark = pytest.mark.browser

from glo_lightning.browser.address import Guard, address_of, listen  # noqa: E402
from glo_lightning.browser.server import make_app  # noqa: E402
from glo_lightning.browser.session import Session  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def chromium():
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)


class BrowseProcess:
    """scripts/browse.py in a process of its own, until Ctrl-C."""

    def __init__(self, run: Path, *flags: str):
        script = str(REPOSITORY / "scripts" / "browse.py")
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
        if str(run) == SHOWN_RUN:
            environment["XDG_CACHE_HOME"] = CACHE
        arguments = [sys.executable, script, str(run), "--no_open", *flags]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(arguments, env=environment, **streams)
        self.said = next(line for line in self.process.stdout if line.startswith("http"))
        self.address = self.said.split()[0]

    def __enter__(self) -> "BrowseProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def stop(self) -> tuple[int, str]:
        """Its exit status and what it wrote to standard error, after Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


@pytest.fixture(scope="module")
def address(chromium, faces_run):
    """Where a server in this process answers."""
    session = Session(load_run(faces_run, "cpu"), faces_run, list(CPU))
    session.map.add_tsne()
    with listen("127.0.0.1", None) as listening:
        app = Guard(make_app(session), "127.0.0.1", listening.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield address_of(listening)
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browse_process(chromium, faces_run, tmp_path_factory):
    """scripts/browse.py on a checkpoint whose run folder is not there."""
    checkpoint = tmp_path_factory.mktemp("alone") / "alone.ckpt"
    shutil.copy(faces_run / "checkpoints" / "last.ckpt", checkpoint)
    with BrowseProcess(checkpoint, *CPU) as process:
        yield process


@pytest.fixture(scope="module")
def browser(chromium):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser, address):
    """new_page() -> the page in a tab of its own; a request to another host, or an error in it, fails the test."""
    contexts, strange = [], []

    def new_page(timeout: int = 20_000, address: str = address):
        context = browser.new_context(viewport=SIZE, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(timeout)
        context.on("request", lambda request: request.url.startswith((address, "data:")) or strange.append(request.url))
        page.on("pageerror", lambda error: strange.append(str(error)))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        return page

    yield new_page
    for context in contexts:
        context.close()
    assert strange == []


def shown(page, section: str, before: str | None = None) -> str:
    """The picture of a section once there is one, other than the one before."""
    page.wait_for_function(
        "([section, before]) => { const image = document.querySelector(`#${section} .made .result img`);"
        " return image && image.src !== before && image.src.startsWith('data:image') }",
        arg=[section, before],
    )
    return page.get_attribute(f"#{section} .made .result img", "src")


def command_makes(command: str, image: str, monkeypatch, folder: Path) -> bool:
    """Whether the copied command makes a picture with this image in it."""
    monkeypatch.chdir(folder)
    picture, image = make(command), pixels(image)
    return np.abs(picture.astype(int) - image).max() <= 1 if "--mask" in command else stands_in(picture, image)


def set_slider(page, selector: str, value: float) -> None:
    page.eval_on_selector(selector, "(input, value) => { input.value = value; input.oninput() }", str(value))


def click_map(page, x: float, y: float) -> None:
    box = page.locator("#plane").bounding_box()
    page.mouse.click(box["x"] + box["width"] * x, box["y"] + box["height"] * y)


def test_a_click_on_the_map_shows_an_image_and_between_images_their_mean(new_page, monkeypatch, tmp_path):
    page = new_page()
    first = shown(page, "map")  # it begins with an image
    captions = page.locator("#map figcaption:visible").all_inner_texts()
    assert captions == ["training image", "what the generator makes of its code"]
    x, y = page.evaluate("map.screen(map.places[7]).map((v, i) => v / [map.width, map.height][i])")
    click_map(page, x, y)
    image = shown(page, "map", first)
    assert page.inner_text("#map .facts b").startswith("image ")
    assert page.locator("#neighbours img").count() == 8
    assert command_makes(page.inner_text("#map code"), image, monkeypatch, tmp_path)
    click_map(page, 0.02, 0.98)
    between = shown(page, "map", image)
    assert page.inner_text("#map .facts") == ""
    assert command_makes(page.inner_text("#map code"), between, monkeypatch, tmp_path)
    page.fill("#find input", "17")
    page.press("#find input", "Enter")
    shown(page, "map", between)
    page.wait_for_function("() => document.querySelector('#map .facts b')?.textContent === 'image 17'")
    assert page.inner_text("#found") == "1 found, 1 on the map"


def test_a_click_on_the_map_takes_the_image_that_is_seen_there(new_page):
    """Images overlap: each is painted in a colour of its own where the page draws it, and many points are clicked."""
    wrong, clicks = new_page().evaluate(
        """async () => {
            const shadow = document.createElement('canvas').getContext('2d');
            map.drawTile = (_, i, x, y, size) => {
                shadow.fillStyle = `rgb(${1 + i}, 0, 0)`;
                shadow.fillRect(x, y, size, size);
            };
            let taken, wrong = 0, clicks = 0;
            [map.choose, map.decode] = [row => { taken = map.position.get(row); }, () => { taken = -1; }];
            for (const scale of [1, 3]) {
                [shadow.canvas.width, shadow.canvas.height] = [map.width, map.height];
                map.zoom(scale, map.width / 2, map.height / 3);
                map.found = new Set(about.rows.filter(row => row % 3 === 0));
                map.draw();
                await new Promise(requestAnimationFrame);
                for (let y = 5; y < map.height - 5; y += 17) for (let x = 5; x < map.width - 5; x += 17) {
                    const colours = [...shadow.getImageData(x - 1, y - 1, 3, 3).data].filter((_, i) => i % 4 === 0);
                    if (new Set(colours).size > 1) continue;  // an edge
                    map.click(x, y);
                    clicks++;
                    wrong += taken !== colours[0] - 1;
                }
            }
            return [wrong, clicks];
        }"""
    )
    assert (wrong, clicks > 1000) == (0, True)


def test_the_map_is_drawn_zoomed_and_moved_by_the_keys(new_page):
    page = new_page()
    canvas = "document.querySelector('#plane').toDataURL()"
    views = [page.evaluate(canvas)]
    page.focus("#plane")
    for key in ("+", "ArrowRight"):
        page.keyboard.press(key)
        page.wait_for_function(f"before => {canvas} !== before", arg=views[-1])
        views.append(page.evaluate(canvas))
    page.keyboard.press("Enter")
    shown(page, "map")
    page.wait_for_selector("[data-map=tsne]:enabled")
    page.click("[data-map=tsne]")
    page.wait_for_function(f"before => {canvas} !== before", arg=views[-1])


def test_the_picture_follows_a_slider_and_its_command_makes_it(new_page, monkeypatch, tmp_path):
    page = new_page()
    page.click("[data-tab=sliders]")
    first = shown(page, "sliders")
    set_slider(page, ".axis input >> nth=0", 2.5)
    moved = shown(page, "sliders", first)
    assert command_makes(page.inner_text("#sliders code"), moved, monkeypatch, tmp_path)
    page.fill("#sliders .save input", "moved")
    place = page.locator("#reset").bounding_box()
    page.click("#sliders .save button")
    page.wait_for_selector("#message:has-text('saved as moved')")
    assert page.locator("#reset").bounding_box() == place  # else the page moves under the click that hides the message
    page.click("#reset")
    assert shown(page, "sliders", moved) == first
    page.click("#saved button:has-text('moved')")
    assert shown(page, "sliders", first) == moved
    assert page.input_value("#start input") == "moved"


def test_the_command_is_copied(new_page):
    page = new_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("[data-tab=sliders]")
    shown(page, "sliders")
    page.click("#sliders .copy")
    page.wait_for_selector("#sliders .copy:has-text('Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == page.inner_text("#sliders code")


def test_images_are_mixed_and_a_file_of_ones_own_among_them(new_page, monkeypatch, tmp_path):
    (tmp_path / "photo.png").write_bytes(encode(flat_image(77, size=50)))
    page = new_page()
    page.click("[data-tab=mix]")
    middle = shown(page, "mix")
    set_slider(page, "#between", 1)
    last = shown(page, "mix", middle)
    page.set_input_files(".slot input[type=file] >> nth=2", tmp_path / "photo.png")
    page.wait_for_selector("#pad:visible")
    three = shown(page, "mix", last)
    page.focus("#pad")
    page.keyboard.press("ArrowDown")
    below = shown(page, "mix", three)
    command = page.inner_text("#mix aside code")
    assert "photo.png" in command
    assert command_makes(command, below, monkeypatch, tmp_path)
    with page.expect_download() as download:
        page.click("#strip a[data-kind=webp]")
    with Image.open(download.value.path()) as moving:
        assert moving.format == "WEBP"
        assert 9 < moving.n_frames <= 18  # equal ones in a row are one


def test_a_picture_goes_from_tab_to_tab_back_is_the_tab_before_and_an_address_is_shared(new_page):
    page = new_page()
    page.click("[data-tab=sliders]")
    first = shown(page, "sliders")
    set_slider(page, ".axis input >> nth=0", 2.5)
    shown(page, "sliders", first)
    page.click("#sliders [data-to=mix]")
    page.wait_for_function("() => /code-/.test(document.querySelector('#mix aside code')?.textContent)")
    mixed = shown(page, "mix")
    with page.expect_download() as download:
        page.click("#mix .download")
    assert download.value.suggested_filename == "mix.png"
    page.wait_for_url("**/#mix?a=code-*")
    shared = page.url
    page.go_back()
    page.wait_for_selector("#sliders:visible")
    page.wait_for_url(lambda url: "#sliders?" in url and "1=2.5" in url)
    page.go_forward()
    page.wait_for_selector("#mix:visible")
    page.reload()
    assert shown(page, "mix") == mixed
    page.click("[data-tab=sliders]")  # a reload keeps what the other tabs show
    assert page.input_value(".axis input >> nth=0") == "2.5"
    another = new_page()
    another.goto(shared)
    assert shown(another, "mix") == mixed


def test_a_wrong_name_is_told_in_its_slot_which_keeps_its_image(new_page):
    page = new_page()
    page.click("[data-tab=mix]")
    shown(page, "mix")
    before = page.evaluate("mixer.names")
    page.fill(".slot input[type=text] >> nth=0", "respirators")
    page.press(".slot input[type=text] >> nth=0", "Enter")
    page.wait_for_selector(".slot .wrong:has-text('respirators: is not known; did you mean mask=respirator?')")
    assert page.evaluate("mixer.names") == before
    page.fill(".slot input[type=text] >> nth=0", "respirator")
    page.press(".slot input[type=text] >> nth=0", "Enter")
    page.wait_for_function("() => mixer.names[0] === 'respirator'")
    assert page.locator(".slot .wrong").all_inner_texts() == [""] * 4


def test_long_work_shows_progress_and_is_stopped_by_its_button(new_page, monkeypatch):
    def samples(*_, **__):
        for _ in Progress(range(10_000), "fitting the flow", hidden=True, mininterval=0):
            time.sleep(0.01)

    monkeypatch.setattr(Session, "samples", samples)
    page = new_page()
    page.click("[data-tab=sample]")  # draws
    page.wait_for_function(
        "() => /fitting the flow: \\d+ %, about /.test(document.querySelector('.work')?.textContent)",
        timeout=60_000,  # other work may come first
    )
    page.click(".work button")
    page.wait_for_selector("#draw .main:enabled")
    assert page.locator(".work").count() == 0
    page.wait_for_function("() => ask('progress').then(answer => answer.work === null)")


def test_samples_are_drawn_at_once_and_again_and_one_seed_draws_the_same(new_page, monkeypatch, tmp_path):
    page = new_page()
    page.click("[data-tab=sample]")
    page.wait_for_selector("#drawn img")  # nothing was asked for yet
    few = page.evaluate("about.rows.length")
    hint = page.inner_text("#blends")
    assert hint.startswith("Priors made of Gaussians draw blurred blends")
    assert hint.endswith(f"{few} images are too few for a flow, which needs 500.")

    def drawn(draw) -> list[str]:
        with page.expect_response("**/samples"):
            draw()
        page.wait_for_selector("#draw .main:enabled")
        return [image.get_attribute("src") for image in page.locator("#drawn .keep img").all()]

    page.wait_for_selector("#draw .main:enabled")
    three = drawn(lambda: page.locator("[name=num]").fill("3") or page.press("[name=num]", "Enter"))
    again = drawn(lambda: page.click("#draw .main"))
    assert page.input_value("[name=seed]") == "1"
    assert drawn(lambda: page.fill("[name=seed]", "0") or page.press("[name=seed]", "Enter")) == three != again
    assert len(three) == 3
    assert set(page.locator("#drawn .drawn div button").all_inner_texts()) == {"by code", "by pixels"}
    page.click("#drawn .keep >> nth=1")
    assert shown(page, "sample") == three[1]
    assert page.inner_text("#sample .result figcaption") == "sample 2 of 3, seed 0"
    assert command_makes(page.inner_text("#sample code"), three[1], monkeypatch, tmp_path)
    first = three[0]  # while the slider moves there are no neighbours, and when it stops there are
    set_slider(page, "[name=temperature]", 0.5)
    page.wait_for_function("before => document.querySelector('#drawn .keep img').src !== before", arg=first)
    live = [image.get_attribute("src") for image in page.locator("#drawn .keep img").all()]
    assert page.locator("#drawn .drawn div button").count() == 0
    assert drawn(lambda: page.dispatch_event("[name=temperature]", "change", {"bubbles": True})) == live
    assert page.locator("#drawn .drawn div button").count() == 6


def test_a_painted_region_is_filled_in(new_page, monkeypatch, tmp_path):
    (tmp_path / "photo.png").write_bytes(encode(flat_image(77)))
    page = new_page()
    page.click("[data-tab=fill]")
    page.set_input_files("#fill input[type=file]", tmp_path / "photo.png")
    page.wait_for_function("() => filler.target?.file === 'photo.png'")
    page.click("#fill-in")
    page.wait_for_selector("#message:has-text('nothing is painted')")
    box = page.locator("#fill canvas").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 160, steps=8)
    page.mouse.up()
    page.focus("#fill canvas")
    by_pointer = page.evaluate("filler.url")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    by_keyboard = page.evaluate("filler.url")
    page.check("#eraser")
    page.focus("#fill canvas")
    page.keyboard.press("Space")
    page.click("#undo")
    assert page.evaluate("filler.url") == by_keyboard
    page.click("#undo")
    assert page.evaluate("filler.url") == by_pointer != by_keyboard
    page.click("#fill-in")
    filled = shown(page, "fill")
    page.wait_for_url("**/#fill?image=upload-*")
    page.reload()
    assert shown(page, "fill") == filled
    assert page.evaluate("filler.url") == by_pointer
    assert page.is_visible("#fill .original")
    with page.expect_download() as download:
        page.click("#mask")
    download.value.save_as(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        missing = np.asarray(mask.convert("L")) == 0
    assert 0.02 < missing.mean() < 0.6
    assert (pixels(filled)[~missing] == flat_image(77)[~missing]).all()
    assert command_makes(page.inner_text("#fill code"), filled, monkeypatch, tmp_path)


def test_a_wrong_file_is_a_message(new_page, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "huge.png").write_bytes(huge(8_000, 8_000))
    (tmp_path / "long.png").write_bytes(bytes(21_000_000))
    page = new_page()
    page.click("[data-tab=mix]")
    for name, line in (
        ("text.png", "upload text.png: is not an image (of no supported format, or damaged)"),
        ("huge.png", "upload huge.png: has more than 50 megapixels"),
        ("long.png", "upload long.png: has 21 MB; 20 MB are taken"),
    ):
        page.set_input_files(".slot input[type=file] >> nth=2", tmp_path / name)
        page.wait_for_selector(f"#message:has-text('{line}')")


def test_two_tabs_do_not_disturb_each_other(new_page):
    pages = [new_page(), new_page()]
    for page in pages:
        page.click("[data-tab=sliders]")
    firsts = [shown(page, "sliders") for page in pages]
    for value in (0.5, 1, 1.5, 2):
        for page, sign in zip(pages, (1, -1), strict=True):
            set_slider(page, ".axis input >> nth=0", sign * value)
    for page, first in zip(pages, firsts, strict=True):
        shown(page, "sliders", first)
        page.wait_for_function("() => /1:-?2 /.test(document.querySelector('#sliders code')?.textContent)")
    assert len({page.get_attribute("#sliders .made .result img", "src") for page in pages}) == 2


def test_a_request_to_another_host_is_not_let_out(browser, address):
    context = browser.new_context()
    page = context.new_page()
    failed = []
    page.on("console", lambda message: failed.append(message.text))
    page.goto(address)
    assert page.evaluate("fetch('http://localhost:9/').then(() => 'sent', () => 'blocked')") == "blocked"
    assert any("Content Security Policy" in text for text in failed)
    context.close()


def test_a_checkpoint_alone_has_a_page(new_page, browse_process):
    page = new_page(address=browse_process.address)
    page.wait_for_selector("#run:has-text('these are missing, so the map shows what the generator makes')")
    click_map(page, 0.4, 0.5)
    shown(page, "map")
    page.click("[data-tab=mix]")
    shown(page, "mix")
    page.wait_for_selector("#strip .row img >> nth=8")
    assert page.is_hidden("#message")


def test_ctrl_c_ends_the_server_with_130_and_frees_its_port(new_page, browse_process):
    port = int(browse_process.address.rsplit(":", 1)[1].strip("/"))
    new_page(address=browse_process.address)  # a connection that is kept alive
    began = time.monotonic()
    status, errors = browse_process.stop()
    assert (status, errors.strip()) == (130, "stopped")
    assert time.monotonic() - began < 10
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "there is no such"),
        (["{run}", "--port", "{port}"], "--port {port}: cannot be opened (Address already in use). Give another one"),
        (["{run}", "--port", "0"], "--port 0: must be from 1 to 65535"),
        (["{run}", "--host", "no.host.invalid"], "--host no.host.invalid: is not an address of this machine"),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments, line, faces_run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        names = {"run": faces_run, "port": taken.getsockname()[1]}
        error = refusal("browse", *(text.format(**names) for text in arguments), "--no_open")
    assert line.format(**names) in error


FOLLOW = """async seconds => {
  const input = document.querySelector('.axis input'), image = document.querySelector('#sliders .made .result img');
  let pictures = 0;
  new MutationObserver(changes => { pictures += changes.length; }).observe(image, {attributeFilter: ['src']});
  const end = performance.now() + 1000 * seconds;
  for (let step = 0; performance.now() < end; step++) {
    input.value = 3 * Math.sin(step / 30);
    input.oninput();
    await new Promise(requestAnimationFrame);
  }
  return pictures / seconds;
}"""


@pytest.mark.slow
def test_fifteen_pictures_a_second_follow_a_slider(browser, faces_run, capsys):
    """Prints the number, the seconds to the page, and the server's memory; GLO_BROWSE_RUN as below."""
    with BrowseProcess(Path(SHOWN_RUN or faces_run)) as server:
        page = browser.new_page(viewport=SIZE)
        began = time.monotonic()
        page.goto(server.address)
        page.wait_for_selector("body[data-ready]")
        opened = time.monotonic() - began
        page.click("[data-tab=sliders]")
        shown(page, "sliders")
        while_the_map_is_made = page.evaluate(FOLLOW, 5)
        page.wait_for_selector("[data-map=tsne]:enabled", state="attached", timeout=300_000)
        followed = page.evaluate(FOLLOW, 5)
        status = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
        memory = {
            line.split()[0]: int(line.split()[1]) / 1e3 for line in status if line.startswith(("VmHWM", "RssAnon"))
        }
        page.close()
        with capsys.disabled():
            print(f"\n{server.said.strip()}; the page {opened:.1f} s after that; {followed:.1f} pictures a second,")
            print(f"{while_the_map_is_made:.1f} while the map is made; MB: {memory}")
        assert followed >= 15


def test_the_tabs_as_the_readme_shows_them(new_page, tmp_path):
    """On the run of GLO_BROWSE_RUN, into the folder GLO_BROWSE_PICTURES, where these are given."""
    folder = Path(PICTURES or tmp_path)
    with BrowseProcess(Path(SHOWN_RUN)) if SHOWN_RUN else contextlib.nullcontext() as process:
        taken = pictures_of_tabs(new_page(120_000, process.address) if process else new_page(120_000), tmp_path)
    for name, record in taken.items():
        with Image.open(io.BytesIO(record)) as opened:
            assert len(opened.convert("RGB").getcolors(1 << 20)) > 20
            opened.save(folder / f"browse_{name}.webp", quality=88, method=6)
        assert (folder / f"browse_{name}.webp").stat().st_size <= 150_000


def pictures_of_tabs(page, folder: Path) -> dict[str, bytes]:
    page.wait_for_selector("[data-map=tsne]:enabled")
    page.click("[data-map=tsne]")
    page.wait_for_function("() => map.places === map.maps.tsne")
    page.evaluate("map.choose(about.rows[27])")
    shown(page, "map")
    page.wait_for_selector("#neighbours img")
    taken = {"map": page.screenshot()}
    page.click("[data-tab=mix]")
    shown(page, "mix")  # what the tab begins with, which would else come into slots that are filled
    for slot, row in enumerate((1, 27, 43, 9)):
        page.fill(f".slot input[type=text] >> nth={slot}", str(row))
        page.press(f".slot input[type=text] >> nth={slot}", "Enter")
    page.wait_for_function("() => mixer.names.length === 4")
    page.wait_for_function("() => / 1 27 43 9 /.test(document.querySelector('#mix .made code')?.textContent)")
    page.wait_for_function(
        "() => document.querySelector('#strip a').href?.includes('name=43&name=9')"
        " && document.querySelectorAll('#strip .row').length === 3"
    )
    taken["mix"] = page.screenshot()
    page.click("[data-tab=sliders]")
    page.fill("#start input", "27")
    set_slider(page, ".axis input >> nth=2", -1)
    set_slider(page, ".axis:has-text('medicalMask') input", 1)
    page.wait_for_function("() => /medicalMask:1 /.test(document.querySelector('#sliders code')?.textContent)")
    taken["sliders"] = page.screenshot()
    page.click("[data-tab=sample]")
    page.wait_for_selector("#drawn .drawn div button")
    for number in (1, 4, 8):
        page.click(f"#drawn .keep >> nth={number}")
    page.evaluate("scrollTo(0, 0)")
    taken["sample"] = page.screenshot()
    page.click("[data-tab=fill]")
    (folder / "photo.png").write_bytes(photo(page))
    page.set_input_files("#fill input[type=file]", folder / "photo.png")
    page.wait_for_function("() => filler.target?.file === 'photo.png'")
    box = page.locator("#fill canvas").bounding_box()
    page.mouse.move(box["x"] + 310, box["y"] + 275)
    page.mouse.down()
    page.mouse.move(box["x"] + 440, box["y"] + 275, steps=12)
    page.mouse.up()
    page.click("#fill-in")
    shown(page, "fill")
    taken["fill"] = page.screenshot()
    return taken


def photo(page) -> bytes:
    """An image of the run as a file."""
    file = io.BytesIO()
    image = page.evaluate("fetch('image/27').then(answer => answer.json()).then(answer => answer.image)")
    Image.fromarray(pixels(image)).save(file, "PNG")
    return file.getvalue()
