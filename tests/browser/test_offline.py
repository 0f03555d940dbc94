"""The page without a server: its parts, and the whole of it in a real browser that has no network."""

import base64
import gzip
import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from programs import call, refusal
from test_page import SIZE, browser, chromium, click_map, set_slider, shown  # noqa: F401
from test_server import pixels

from glo_lightning import load_run
from glo_lightning.browser import offline
from glo_lightning.browser.session import Session
from glo_lightning.errors import InputError
from glo_lightning.explore.flows import fitted_flow
from glo_lightning.generator import Generator, SkipGenerator, SpatialGenerator
from glo_lightning.latents import to_ball
from glo_lightning.priors.flow import Flow
from glo_lightning.priors.prior import PRIORS

onnx = pytest.importorskip("onnx", reason="needs pip install -e '.[export]'")

RUNTIME = REPOSITORY / offline.RUNTIME
needs_runtime = pytest.mark.skipif(not RUNTIME.is_dir(), reason=f"needs {offline.NPM}")


@pytest.fixture(scope="module")
def flow_run(faces_run, tmp_path_factory):
    """The run with a small flow; it has fewer codes than a flow needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glo_lightning.priors.flow.MIN_CODES", 20)
        patch.setitem(PRIORS, "flow", lambda: Flow(steps=20, width=16, blocks=1))
        run = shutil.copytree(faces_run, tmp_path_factory.mktemp("flow") / "run")
        fitted_flow(load_run(run, "cpu"))
        yield run


@pytest.fixture(scope="module")
def session(flow_run):
    return Session(load_run(flow_run, "cpu"), flow_run, ["--accelerator", "cpu"])


def check_onnx(generator: torch.nn.Module, codes: torch.Tensor, max_error: float) -> int:
    """Compare ONNX's own interpreter with PyTorch, by the mean error in [-1, 1]; return the bytes of the program."""
    generator.eval().requires_grad_(False)
    written = offline.as_onnx(generator, {"codes": codes[:1]}, "images")
    program = onnx.load_from_string(written)
    onnx.checker.check_model(program)
    interpreter = onnx.reference.ReferenceEvaluator(program)
    for code, image in zip(codes, generator(codes), strict=True):
        (made,) = interpreter.run(None, {"codes": code[None].numpy()})
        assert np.abs(made[0] - image.numpy()).mean() < max_error
    return len(written)


@pytest.mark.parametrize(("image_size", "channels", "width"), [(16, 3, 32), (32, 1, 16)])
def test_the_generator_as_onnx_makes_its_images_with_half_its_bytes(image_size, channels, width):
    torch.manual_seed(0)
    generator = Generator(5, image_size, channels, width=width)
    for layer in generator.layers:
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
    written = check_onnx(generator, torch.randn(3, 5), 2 / 255 / 10)
    assert written < 0.6 * 4 * sum(parameter.numel() for parameter in generator.parameters()) + 20_000


def test_a_generator_of_codes_with_places_is_written_too():
    torch.manual_seed(0)
    generator = SpatialGenerator(8, 16, width=4, side=2)
    torch.nn.init.normal_(generator.decoder.weight, std=0.1)
    torch.nn.init.normal_(generator.layers[-1].weight, std=0.1)
    check_onnx(generator.eval(), to_ball(torch.randn(3, 8)), 2 / 255 / 5)


def test_large_matrices_have_a_byte_a_number_and_make_the_same_images(monkeypatch):
    monkeypatch.setattr(offline, "LARGE", 1000)
    torch.manual_seed(0)
    generator = SkipGenerator(5, 32, width=8)
    for skip in generator.skips.values():
        torch.nn.init.normal_(skip.weight, std=0.01)
        skip.weight.data[0] = 0  # a row without a largest number
    written = check_onnx(generator, to_ball(torch.randn(3, 5)), 2 / 255 / 5)
    rest = 40_000  # DCGAN's weights in halves, and the graph
    assert written < sum(skip.weight.numel() + 8 * len(skip.bias) for skip in generator.skips.values()) + rest


def test_a_generator_that_onnx_cannot_express_is_one_line():
    class Undecided(torch.nn.Module):
        def forward(self, codes):
            return codes if codes.sum() > 0 else -codes

    with pytest.raises(InputError, match=r"export Undecided: cannot be written as ONNX"):
        offline.as_onnx(Undecided().eval(), {"codes": torch.ones(1, 4)}, "images")


def test_a_flow_as_onnx_has_its_velocities(session):
    flow = fitted_flow(session.run)
    interpreter = onnx.reference.ReferenceEvaluator(onnx.load_from_string(offline.flow_as_onnx(flow)))
    places = torch.randn(5, len(flow.mean))
    conditions = torch.stack([torch.randint(-1, len(counts), (5,)) for counts in flow.counts], dim=1)
    inputs = {"places": places, "time": torch.tensor([0.3]), "conditions": conditions, "guidance": torch.tensor([1.5])}
    (made,) = interpreter.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    np.testing.assert_allclose(made, flow._velocity(places, 0.3, conditions, 1.5), atol=5e-3)


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"was not found. In the current folder run npm install .* onnxruntime-web@"):
        offline.require_offline()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"export onnx: is not installed. Run pip install -e '.\[export\]'"):
        offline.require_offline()


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    """A runtime of a few bytes in the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / offline.RUNTIME
    folder.mkdir(parents=True)
    for name in offline.RUNTIME_FILES.values():
        (folder / name).write_bytes(b"runtime")


def test_the_page_holds_what_it_needs_and_names_no_other_place(session, runtime, tmp_path):
    offline.export_page(session, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)([^"]*)"', page) == []
    assert "default-src 'none'" in page
    assert sorted(offline.MODULES) == sorted(file.name for file in offline.PAGE.glob("*.js"))
    assert re.findall(r"^(?:import|export) .*", page, re.MULTILINE) == []
    parts = dict(re.findall(r'<script type="application/octet-stream" id="(\w+)">([^<]*)<', page))
    parts = {name: gzip.decompress(base64.b64decode(part)) for name, part in parts.items()}
    assert (parts["runtime"], parts["wasm"]) == (b"runtime", b"runtime")
    about, codes = json.loads(parts["about"]), np.frombuffer(parts["codes"], np.float16).reshape(-1, 6)
    assert about["rows"] == session.map.rows.tolist()
    np.testing.assert_allclose(codes[: len(about["rows"])], session.run.codes[session.map.rows], atol=1e-3)
    assert len(codes) == len(about["rows"]) + 1 + len(about["directions"]) + len(about["means"])
    assert "Permission is hereby granted" in page  # the runtime's licence goes with it


def test_a_page_that_is_too_large_is_one_line_and_none(session, runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match=r"page.html: the page has .* the limit is 25. Train a smaller generator"):
        offline.export_page(session, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_file_that_is_there_is_kept(faces_run, runtime, tmp_path):
    (tmp_path / "page.html").write_text("mine")
    assert refusal("browse", faces_run, "--export", "page.html").startswith("--export page.html: exists")
    assert (tmp_path / "page.html").read_text() == "mine"


@pytest.fixture(scope="module")
def exported(flow_run, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)  # where npm has installed
        assert call("browse", flow_run, "--accelerator", "cpu", "--export", file)[0] == 0
    return file


@pytest.fixture
def page(browser, exported):  # noqa: F811
    """The exported page in a browser without a network; a request, or an error in it, fails the test."""
    context, strange = browser.new_context(viewport=SIZE, offline=True), []
    page = context.new_page()
    page.set_default_timeout(20_000)
    own = (exported.as_uri(), "blob:", "data:")
    context.on("request", lambda request: request.url.startswith(own) or strange.append(request.url))
    page.on("pageerror", lambda error: strange.append(str(error)))
    page.goto(exported.as_uri())
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert strange == []


def error(url: str, made: dict) -> float:
    """The mean error of a picture in the page, of 255, to what PyTorch makes of it."""
    return float(np.abs(pixels(url)[..., :3].astype(float) - pixels(made["image"])).mean())


@pytest.mark.browser
@needs_runtime
def test_the_page_without_a_server_shows_what_pytorch_makes(page, session, exported):
    assert exported.stat().st_size < 25_000_000
    assert page.locator("nav button").all_inner_texts() == ["Map", "Mix", "Sliders", "Sample"]
    first = shown(page, "map")
    x, y = page.evaluate("map.screen(map.places[7]).map((v, i) => v / [map.width, map.height][i])")
    click_map(page, x, y)
    image = shown(page, "map", first)
    row = int(page.inner_text("#map .facts b").split()[1])
    assert error(image, session.decoded(str(row))) < 1
    near = [int(tile.get_attribute("title").split()[1]) for tile in page.locator("#neighbours button").all()]
    assert near == [other["row"] for other in session.image(row)["neighbours"]]
    page.click("[data-tab=mix]")
    middle = shown(page, "mix")
    names = [str(session.map.rows[0].item()), str(session.map.rows[len(session.map.rows) // 2].item())]
    assert error(middle, session.mixed(names, [0.5, 0.5], "arc")) < 1
    page.select_option("#path", "line")
    line = shown(page, "mix", middle)
    assert error(line, session.mixed(names, [0.5, 0.5], "line")) < 1
    page.fill(".slot input[type=text] >> nth=2", "5")
    page.press(".slot input[type=text] >> nth=2", "Enter")
    page.wait_for_selector("#pad:visible")
    three = shown(page, "mix", line)
    assert error(three, session.mixed([*names, "5"], [0.25, 0.25, 0.5], "line")) < 1
    page.click("[data-tab=sliders]")
    first = shown(page, "sliders")
    direction = next(name for name in session.directions if "=" in name)
    set_slider(page, ".axis input >> nth=1", -1.5)
    moved = shown(page, "sliders", first)
    assert error(moved, session.moved("0", ["2"], [-1.5])) < 1
    page.evaluate("name => { const {input} = sliders.inputs.get(name); input.value = 1; input.oninput(); }", direction)
    both = shown(page, "sliders", moved)
    assert error(both, session.moved("0", ["2", direction], [-1.5, 1.0])) < 1
    assert page.inner_text("#sliders code").startswith("python scripts/walk.py")


@pytest.mark.browser
@needs_runtime
@pytest.mark.parametrize("path", ["line", "arc", "flow"])
def test_a_mix_without_a_server_is_that_of_the_commands(page, session, path):
    for names in (["3", "9"], ["3", "9", "mask=respirator"], ["3", "9", "70", "1"]):
        weights = [0.1, 0.25, 0.3, 0.35][: len(names)]
        asked = {"names": names, "weights": weights, "path": path}
        made = page.evaluate("asked => ask('picture', asked)", asked)["image"]
        assert error(made, session.mixed(names, weights, path)) < 1


@pytest.mark.browser
@needs_runtime
def test_the_page_without_a_server_finds_images_and_says_what_it_lacks(page, session):
    page.fill("#find input", "mask=respirator")
    page.press("#find input", "Enter")
    page.wait_for_function("() => document.querySelector('#found').textContent")
    assert page.inner_text("#found").startswith(f"{len(session.images.find('mask=respirator'))} found")
    page.click("[data-map=tsne]")
    page.click("[data-tab=mix]")
    assert "These need browse.py RUN." in page.inner_text("#lacks")
    page.fill(".slot input[type=text] >> nth=2", "123456")
    page.press(".slot input[type=text] >> nth=2", "Enter")
    page.wait_for_selector(".slot .wrong:has-text('image 123456: is not in this page')")


@pytest.mark.browser
@needs_runtime
def test_the_page_without_a_server_draws_samples_of_the_flow(page):
    page.click("[data-tab=sample]")
    page.wait_for_selector("#drawn .keep img")
    asked = {"num": 3, "seed": 1, "temperature": 1, "guidance": 1.5, "conditions": []}

    def drawn(**other) -> list[str]:
        answer = page.evaluate("asked => ask('samples', asked)", asked | other)
        return [sample["image"] for sample in answer["samples"]]

    assert len(set(drawn())) == 3
    assert drawn() == drawn()
    assert not set(drawn()) & set(drawn(seed=2))
    assert drawn() != drawn(conditions=["mask=respirator"])
    page.click("#sample [data-to=mix]")
    page.wait_for_function("() => mixer.names.includes('code-1')")
    page.wait_for_function("() => /^no command/.test(document.querySelector('#mix code').textContent)")
