"""The page for everybody: axe's rules, keys, touch, small windows and slow lines, in headless Chromium."""

import pytest
from conftest import REPOSITORY
from test_page import address, browser, chromium, new_page, shown  # noqa: F401

AXE = REPOSITORY / "node_modules" / "axe-core" / "axe.min.js"
NPM = "npm install --no-save --no-package-lock axe-core@4.10.3"
TABS = ("map", "mix", "sliders", "sample", "fill")
pytestmark = pytest.mark.browser


@pytest.fixture
def page(new_page):  # noqa: F811
    return new_page()


def open_tab(page, tab: str) -> None:
    page.click(f"[data-tab={tab}]")
    page.wait_for_selector(f"#{tab}:visible")
    if tab != "fill":
        shown(page, tab)


@pytest.mark.skipif(not AXE.is_file(), reason=f"needs {NPM}")
def test_axe_finds_nothing_in_either_scheme(page):
    page.evaluate(AXE.read_text())
    for tab in TABS:
        open_tab(page, tab)
        for scheme, options in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
            page.emulate_media(color_scheme=scheme)
            found = page.evaluate("options => axe.run(options).then(found => found.violations)", options)
            assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == [], (tab, scheme)


def test_the_page_is_as_wide_as_a_small_window_and_the_picture_stays_in_view(page):
    for tab in TABS:
        open_tab(page, tab)
        for width, height in ((390, 844), (700, 450), (800, 600)):  # the second is 1400x900 at 200 %
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") == width, tab
            page.evaluate("scrollTo(0, 300)")
            if tab != "fill":
                box = page.locator(f"#{tab} .result img").bounding_box()
                assert 0 <= box["y"] <= height - box["height"], tab
                assert box["height"] < height / 2


def test_arrows_move_between_tabs_and_a_message_stays_until_it_is_closed(page):
    page.focus("#tab-map")
    for key, tab in (("ArrowRight", "mix"), ("ArrowLeft", "map"), ("End", "fill"), ("ArrowRight", "map")):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.tab") == tab
        assert page.is_visible(f"#{tab}[role=tabpanel][aria-labelledby=tab-{tab}]")
    page.fill("#find input", "nothing like it")
    page.press("#find input", "Enter")
    page.wait_for_selector("#message[role=alert]:has-text('⚠ Error: search nothing like it')")
    page.press("#find input", "a")
    assert page.is_visible("#message")
    page.click("#message button")
    assert page.is_hidden("#message")


def test_two_fingers_zoom_the_map_and_one_scrolls_the_page(browser, address):  # noqa: F811
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    shown(page, "map")
    box, touch = page.locator("#plane").bounding_box(), context.new_cdp_session(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def move(*positions: list[tuple[float, float]]) -> None:
        """Put fingers down at the first positions, move them to each of the others, and lift them."""
        kinds = ["touchStart", *["touchMove"] * (len(positions) - 1), "touchEnd"]
        for kind, places in zip(kinds, (*positions, []), strict=True):
            points = [{"x": x + dx, "y": y + dy} for dx, dy in places]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    scale = page.evaluate("map.scale")
    move(*([(-reach, 0), (reach, 0)] for reach in (30, 60, 90)))
    assert page.evaluate("map.scale") == pytest.approx(3 * scale, rel=0.05)
    assert page.evaluate("visualViewport.scale") == 1  # else the browser has zoomed, too
    assert page.evaluate("scrollY") == 0
    move(*([(0, -10 * step)] for step in range(20)))
    page.wait_for_function("() => scrollY > 100")
    context.close()


def test_on_a_slow_line_the_page_is_there_before_its_thumbnails(browser, address):  # noqa: F811
    page = browser.new_page()
    page.route("**/thumbnails/*", lambda route: None)  # never answered
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    shown(page, "map")
    page.click("[data-tab=sliders]")
    shown(page, "sliders")
    assert page.evaluate("map.sheets.length") == 0
    assert page.request.get(f"{address}about").headers["content-encoding"] == "gzip"
    page.close()


def test_samples_are_shown_before_their_neighbours(page):
    """With many images the neighbours by pixels take seconds; here they never come."""

    def answer(route) -> None:
        if route.request.post_data_json.get("neighbours") is False:
            route.continue_()

    page.route("**/samples", answer)
    page.click("[data-tab=sample]")
    shown(page, "sample")
    assert page.locator("#drawn .keep img").count() == 12


def test_the_slider_between_two_images_stands_below_them(page):
    open_tab(page, "mix")
    page.set_viewport_size({"width": 1400, "height": 900})
    slots = [slot.bounding_box() for slot in page.locator(".slot").all()]
    assert len({box["y"] for box in slots}) == 1
    box = page.locator(".between.two").bounding_box()
    assert box["y"] > slots[0]["y"] + slots[0]["height"]
    assert box["height"] < 40  # one line
