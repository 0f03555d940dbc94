"""The map in headless Chromium: its legend, what is found, hovered and reconstructed worst."""

import pytest
from test_page import address, browser, chromium, new_page, shown  # noqa: F401

pytestmark = pytest.mark.browser
CANVAS = "document.querySelector('#plane').toDataURL()"


@pytest.fixture
def page(new_page):  # noqa: F811
    page = new_page()
    shown(page, "map")
    page.wait_for_function("() => map.sheets.length === about.sheets.length")
    return page


def changed(page, canvas: str) -> str:
    page.wait_for_function(f"before => {CANVAS} !== before", arg=canvas)
    return page.evaluate(CANVAS)


def test_the_legend_of_a_label_colours_the_images_and_leaves_others_out(page):
    canvas = page.evaluate(CANVAS)
    page.select_option("#colour", "label skin")
    page.wait_for_selector("#legend button")
    canvas = changed(page, canvas)
    texts = page.locator("#legend button").all_inner_texts()
    counts = page.evaluate("fetch('labels?name=skin').then(answer => answer.json()).then(answer => answer.numbers)")
    values = page.evaluate("about.attributes.skin")
    assert texts == [f"{value} {counts.count(number)}" for number, value in enumerate(values)]
    colour = page.evaluate("legend.colour(map.places.findIndex((_, i) => legend.numbers[i] === 0))")
    assert colour == f"#{values[0]}"  # the values are colours
    page.click("#legend button >> nth=0")
    canvas = changed(page, canvas)
    shown_ones = page.evaluate("map.places.map((_, i) => map.rank(i)).map(rank => rank > 0)")
    chosen = page.evaluate("map.position.get(map.chosen)")
    assert shown_ones == [number == 0 or i == chosen for i, number in enumerate(counts)]
    page.select_option("#colour", "")
    changed(page, canvas)
    assert page.is_hidden("#legend")


def test_the_worst_reconstructed_come_first_and_a_click_shows_one(page):
    page.select_option("#colour", "psnr")
    page.wait_for_selector("#legend .tiles button")
    psnr = page.evaluate("fetch('psnr').then(answer => answer.json()).then(answer => answer.psnr)")
    values = [float(text.split()[0]) for text in page.locator("#legend .tiles button").all_inner_texts()]
    assert values == pytest.approx(sorted(psnr)[:60], abs=0.06)
    page.click("#legend .tiles button >> nth=0")
    worst = page.evaluate("about.rows")[psnr.index(min(psnr))]
    page.wait_for_function("text => document.querySelector('#map .facts b').textContent === text", arg=f"image {worst}")
    assert f"PSNR {min(psnr):.1f} dB" in page.inner_text("#map .facts")


def test_found_images_are_brought_into_view_and_the_whole_map_comes_back(page):
    whole = page.evaluate("[map.x, map.y, map.scale]")
    page.evaluate("map.zoom(8, 0, 0)")
    for text, rows in (("mask=respirator", None), ("17", [17])):
        page.fill("#find input", text)
        page.press("#find input", "Enter")
        page.wait_for_function("text => map.found?.has(17) || text !== '17' && map.found", arg=text)
        rows = rows or page.evaluate("[...map.found]")
        places = page.evaluate("rows => rows.map(row => map.screen(map.places[map.position.get(row)]))", rows)
        width, height = page.evaluate("[map.width, map.height]")
        assert all(0 < x < width and 0 < y < height for x, y in places)
    page.click("#whole")
    assert page.evaluate("[map.x, map.y, map.scale]") == pytest.approx(whole)


def test_the_image_under_the_pointer_is_raised_and_shown_larger(page):
    """Of two images at one place the one on top is hovered and clicked, wherever the pointer came from."""
    page.evaluate("map.places = map.places.map((place, i) => i === 3 || i === 5 ? [0.5, 0.5] : place)")
    page.evaluate("map.fit([[0.5, 0.5]])")
    box = page.locator("#plane").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    row = page.evaluate("about.rows[5]")
    page.wait_for_selector(f"#hover:has-text('image {row}')")
    assert page.locator("#hover canvas").bounding_box()["width"] > 1.5 * page.evaluate("map.size")
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function("row => map.chosen === row", arg=row)
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.wait_for_selector("#hover", state="hidden")


def test_of_images_that_would_cover_each_other_one_is_drawn_and_zooming_shows_the_others(page):
    page.evaluate("map.places = map.places.map((_, i) => [0.5 + i % 10 / 300, 0.5 + Math.floor(i / 10) / 300])")
    page.evaluate("map.scale = 1; map.draw()")
    page.wait_for_function("() => map.seen.length < 8")
    assert page.evaluate("about.rows[map.seen.at(-1)] === map.chosen")
    page.evaluate("map.zoom(40, map.width / 2, map.height / 2)")
    page.wait_for_function("() => map.seen.length === 96")


def test_a_part_of_many_images_is_said_to_be_a_part(new_page):  # noqa: F811
    page = new_page()
    assert page.inner_text("#drawn-of") == ""
    page.route("**/about", lambda route: route.fulfill(json=route.fetch().json() | {"num_images": 20_000}))
    page.reload()
    page.wait_for_selector("#drawn-of:has-text('96 of 20,000 images are drawn')")


def test_the_page_says_what_a_code_is_also_one_with_places(new_page):  # noqa: F811
    page = new_page()
    assert "has a code: 6 numbers, learned in training" in page.inner_text("#map .about")
    with_places = {"dimensions": 256, "code_side": 8}
    page.route("**/about", lambda route: route.fulfill(json=route.fetch().json() | with_places))
    page.reload()
    page.wait_for_selector("#map .about:has-text('has a code: 8 \u00d7 8 places of 4 numbers, learned in training')")


def test_a_page_of_images_without_labels_speaks_of_none(new_page):  # noqa: F811
    page = new_page()
    without = {"attributes": {}, "directions": ["1", "2", "3"]}
    page.route("**/about", lambda route: route.fulfill(json=route.fetch().json() | without))
    page.route("**/image/*", lambda route: route.fulfill(json=route.fetch().json() | {"attributes": []}))
    page.reload()
    page.wait_for_selector("body[data-ready]")
    for tab in ("map", "mix", "sliders", "sample", "fill"):
        page.click(f"[data-tab={tab}]")
        if tab != "fill":
            shown(page, tab)
        fields = page.locator(f"#{tab} [placeholder]").evaluate_all("fields => fields.map(field => field.placeholder)")
        assert "label" not in " ".join([page.inner_text(f"#{tab}").lower(), *fields]), tab
