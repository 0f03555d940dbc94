"""The page without a server: what is written, and what it shows in headless Chromium, opened as a file."""

import os
import runpy
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from test_browse import pixels
from test_browse_page import browser, chromium, click_map, set_slider, shown  # noqa: F401

from glo_lightning import load_run
from glo_lightning.errors import InputError
from glo_lightning.explore import offline
from glo_lightning.explore.edits import Mixer, directions, moved
from glo_lightning.images import to_uint8

MISSING = f"needs pip install -e '.[export]' and {offline.NPM}"
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def packages():
    if not (REPOSITORY / offline.RUNTIME).is_dir() or find_spec("onnxscript") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)


def write_page(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        patch.setattr(sys, "argv", ["browse.py", *map(str, arguments), "--accelerator", "cpu"])
        runpy.run_path(str(REPOSITORY / "scripts" / "browse.py"), run_name="__main__")


@pytest.fixture(scope="module")
def file(packages, trained, tmp_path_factory):
    file = tmp_path_factory.mktemp("offline") / "page.html"
    write_page(trained, "--export", file)
    return file


@pytest.fixture
def page(file, browser):  # noqa: F811
    """The page; a request, but to its own file and what stands in it, or an error, fails the test."""
    context, strange = browser.new_context(offline=True), []
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    own = (file.as_uri(), "blob:", "data:")
    context.on("request", lambda request: request.url.startswith(own) or strange.append(request.url))
    opened.on("pageerror", lambda error: strange.append(str(error)))
    opened.goto(file.as_uri())
    opened.wait_for_selector("body[data-ready]")
    yield opened
    assert opened.is_hidden("#message"), opened.inner_text("#message")
    context.close()
    assert strange == []


@pytest.fixture(scope="module")
def run(trained):
    return load_run(trained, "cpu")


def error(image: str, run, code: torch.Tensor) -> float:
    """The mean difference, of 255, between a picture in the page and what the run's own generator makes of a code."""
    (made,) = to_uint8(run.model(code[None])).permute(0, 2, 3, 1).numpy()
    return float(np.abs(pixels(image)[..., :3].astype(int) - made).mean())


def test_a_click_on_the_map_shows_what_the_generator_makes(page, run):
    x, y = page.evaluate("map.screen(map.places[7]).map((v, i) => v / [map.width, map.height][i])")
    click_map(page, x, y)
    image = shown(page, "map")
    row = page.evaluate("map.chosen")
    table = run.model.latents.weight
    assert error(image, run, table[row]) < 1 < error(image, run, table[(row + 1) % 96])
    near = [int(tile.get_attribute("title").split()[1]) for tile in page.locator("#neighbours button").all()]
    assert near == (table - table[row]).square().sum(1).argsort()[1:9].tolist()
    click_map(page, 0.02, 0.98)
    between = shown(page, "map", image)
    words = page.inner_text("#map code").split()
    at = words.index("--way")
    names, weights = words[3:at], [float(word) for word in words[at + 3 : at + 11]]
    assert error(between, run, Mixer(run, run.codes(names), "line")(weights)) < 1


@pytest.mark.parametrize("way", ["line", "arc"])
@pytest.mark.parametrize("names", [["3", "9"], ["3", "9", "mask=respirator"], ["3", "9", "70", "1"]], ids=len)
def test_a_mix_is_that_of_the_commands(page, run, names, way):
    weights = [0.1, 0.25, 0.3, 0.35][: len(names)]
    asked = {"names": names, "weights": weights, "way": way}
    image = page.evaluate("asked => ask('picture', asked)", asked)["image"]
    assert error(image, run, Mixer(run, run.codes(names), way)(weights)) < 1


def test_the_picture_follows_a_slider(page, run):
    page.click("[data-tab=sliders]")
    first = shown(page, "sliders")
    set_slider(page, ".axis input >> nth=0", 2.5)
    image = shown(page, "sliders", first)
    code = run.model.project(moved(run.codes(["0"])[0], directions(run, 6), [("1", 2.5)]))
    assert error(image, run, code) < 1
    assert "--image 0 --move 1:2.5" in page.inner_text("#sliders code")


def test_what_needs_a_server_is_not_shown(page):
    assert page.locator("nav button").all_inner_texts() == ["Map", "Mix", "Sliders"]
    page.click("[data-tab=mix]")
    shown(page, "mix")
    assert page.inner_text("#lacks") == offline.LACKS
    assert page.locator("#way option").all_inner_texts() == ["line", "arc"]
    assert not page.locator(".save:visible, #strip:visible, .slot .button:visible").count()


def test_the_page_is_small_names_the_licence_and_is_not_replaced(file, trained, capsys):
    content = file.read_text()
    assert file.stat().st_size < 10_000_000
    assert "ONNX Runtime Web,\n   Copyright (c) Microsoft Corporation" in content
    assert "onnxruntime-web" in (REPOSITORY / "NOTICE").read_text()
    with pytest.raises(SystemExit):
        write_page(trained, "--export", file)
    assert "is there already; give --overwrite" in capsys.readouterr().err
    assert file.read_text() == content


def test_a_page_too_large_is_one_line_and_leaves_nothing(packages, trained, tmp_path, monkeypatch):
    from glo_lightning.explore.explorer import Explorer

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(offline, "MOST", 100_000)
    with pytest.raises(InputError, match=r"MB .*train a smaller generator"):
        offline.export_page(Explorer(load_run(trained, "cpu"), trained), tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(offline.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(InputError, match=r"onnxscript: is not installed; pip install -e '.\[export\]'"):
        offline.require_offline()
    monkeypatch.setattr(offline.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(InputError, match=r"was not found; in the current folder run npm install .*onnxruntime-web@"):
        offline.require_offline()
