"""The page in a real browser: look, zoom, switch layers, click, correct, compare."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from PIL import Image
from view_made import index_of

from wsiseg.view.build import page_files
from wsiseg.view.results import find_shown

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

NAMES = ("chromium", "chromium-browser", "google-chrome")
SERVE = "from wsiseg_cli.main import main; main()"


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: needs one of {', '.join(NAMES)}")
    if shutil.which("npm") is None and not page_files():
        pytest.skip("no page: needs npm to build it")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def link(run, tmp_path):
    command = [sys.executable, "-c", SERVE, "view", str(run), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as at:
        printed = at.stdout.readline().strip()  # the page is built before, if need be
        yield printed
        at.terminate()
        at.communicate()


@pytest.fixture
def page(browser, link):
    """Return the page, opened; nothing may have been said on its console in the end."""
    context = browser.new_context(viewport={"width": 1300, "height": 850})
    opened, said = context.new_page(), []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(link)
    until(opened, "window.wsiseg?.main?.images.size >= 7")
    yield opened
    context.close()
    assert said == []


def until(page, expression, seconds=60):
    """Wait in here: the page's policy does not let a string be evaluated in there."""
    end = time.monotonic() + seconds
    while not (value := page.evaluate(expression)):
        assert time.monotonic() < end, expression
        time.sleep(0.05)
    return value


def loaded(page):
    until(page, "wsiseg.main.viewer.world.getItemAt(0).getFullyLoaded()")


def on_screen(page, point):
    at = "wsiseg.main.viewer.element.getBoundingClientRect()"
    return page.evaluate(
        f"([x, y]) => {{ const f = wsiseg.main.frame(), r = {at};"
        "return [x * f.scale + f.x + r.x, y * f.scale + f.y + r.y] }",
        [point.x, point.y],
    )


@pytest.fixture
def largest(run, tmp_path):
    """Return the largest object: its row, its id, and a place in it."""
    index = index_of(find_shown([run], workspace=tmp_path)[0])
    (row,) = index.ordered(None, descending=True, limit=1, class_name="Tumor").tolist()
    return row, index.ids[row].decode(), index.polygon(row).representative_point()


def test_an_object_is_found_zoomed_to_clicked_and_rejected(page, run, largest):
    _, id, point = largest
    loaded(page)
    page.evaluate("([x, y]) => wsiseg.main.goTo({x, y}, true)", [point.x, point.y])
    page.keyboard.press("4")  # 0.5 µm per pixel: level 0 of this slide
    until(page, "Math.abs(wsiseg.main.frame().scale - 1) < 1e-6")
    loaded(page)
    assert "zoom=0.5" in page.url
    page.mouse.click(*on_screen(page, point))
    until(page, "wsiseg.inspector.object !== null")
    assert page.evaluate("wsiseg.inspector.object.id") == id
    assert "Area" in page.inner_text(".inspector")
    page.keyboard.press("r")
    until(page, "wsiseg.main.corrections?.length === 1")
    saved = json.loads((run / "a" / "corrections.geojson").read_bytes())
    (found,) = (one for one in saved["features"] if one["id"] == id)
    assert found["properties"]["name"] == "rejected: was Tumor"
    assert found["properties"]["classification"]["name"] == "background"
    page.click("text=undo")
    until(page, "wsiseg.main.corrections?.length === 0")
    assert not (run / "a" / "corrections.geojson").exists()


@pytest.mark.parametrize(
    ("key", "layer"),
    [("m", "mask:Classes"), ("h", "heatmap:Tumor"), ("u", "uncertainty:entropy"), ("t", "tissue")],
)
def test_layers_are_switched_by_their_keys(page, key, layer):
    kind = layer.partition(":")[0]
    shown = f"wsiseg.main.layers.find((one) => one.kind === '{kind}')"
    image = f"wsiseg.main.images.get({shown}.key)"
    until(page, f"!!{image}")
    name = page.evaluate(f"{shown}.key")
    assert page.evaluate(f"{image}.getOpacity()") == 0
    page.keyboard.press(key)
    until(page, f"{image}.getOpacity() > 0 && {image}.getFullyLoaded()")
    assert page.is_checked(f".layer.on[data-layer='{name}'] .switch input")
    page.keyboard.press(key)
    until(page, f"{image}.getOpacity() === 0")


def test_a_region_is_drawn(page, run):
    loaded(page)
    page.keyboard.press("n")
    page.mouse.move(500, 300)
    page.mouse.down()
    for x, y in ((600, 300), (620, 380), (560, 420), (500, 400)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    until(page, "wsiseg.main.corrections?.length === 1")
    saved = json.loads((run / "a" / "corrections.geojson").read_bytes())
    assert {one["properties"].get("name") for one in saved["features"]} == {None, "added"}


def test_two_results_move_together(page):
    loaded(page)
    page.keyboard.press("c")
    until(page, "!!wsiseg.compare.pane?.about")
    zooms = "[wsiseg.main, wsiseg.compare.pane].map((pane) => pane.place().zoom)"
    until(page, f"Math.abs({zooms}[0] / {zooms}[1] - 1) < 0.001")  # at once, before any move
    page.keyboard.press("3")
    until(page, "Math.abs(wsiseg.main.place().zoom - 1) < 1e-6")
    until(page, "Math.abs(wsiseg.compare.pane.place().zoom - 1) < 0.01")
    both = "[wsiseg.main, wsiseg.compare.pane].map((pane) => pane.place())"
    one, other = page.evaluate(both)
    assert other["x"] == pytest.approx(one["x"], abs=3)
    assert other["y"] == pytest.approx(one["y"], abs=3)
    assert "with=out" in page.url


def test_a_link_leads_to_its_place_and_slides_are_sorted(page, link):
    page.goto("about:blank")  # so that the page is loaded anew, as from a link in a mail
    page.goto(f"{link}#slide=out/b&x=700&y=600&zoom=0.25")
    until(page, "window.wsiseg?.main?.about?.name === 'b'")
    until(page, "wsiseg.main.images.size >= 5 && Math.abs(wsiseg.main.place().x - 700) < 2")
    assert page.evaluate("wsiseg.main.place().zoom") == pytest.approx(0.25, rel=0.01)
    page.select_option("#list select", "Tumor_mm2")
    page.click("#list button.icon")
    assert page.inner_text("#list li:first-child b") == "b"
    assert page.evaluate("document.querySelector('#list img').naturalWidth") > 0


LONG = "A class whose name nobody ever found the time to shorten, <b>markup</b> and all"


def test_pictures_of_reports_keep_their_shape(browser, run, tmp_path):
    tall = Image.new("RGB", (500, 1200))  # more than the page lets it be
    for name in "ab":
        tall.save(run / name / "overview.png")
    command = [sys.executable, "-c", SERVE, "report", str(run)]
    subprocess.run(command, check=True, capture_output=True)
    context = browser.new_context(viewport={"width": 900, "height": 700})
    opened = context.new_page()
    for path, media in ((run / "report.html", "screen"), (run / "a" / "report.html", "print")):
        opened.emulate_media(media=media)
        opened.goto(path.as_uri())
        sides = "[one.width / one.height, one.naturalWidth / one.naturalHeight]"
        shapes = opened.evaluate(f"[...document.images].map((one) => {sides})")
        assert shapes
        assert all(shown == pytest.approx(own, rel=0.03) for shown, own in shapes)
    context.close()


def rename_tumor(run):
    """Give a class of the result that is not open yet a long name."""
    for path in (run / "b").rglob("*"):
        if path.name in {"annotations.geojson", ".zattrs"}:
            path.write_text(path.read_text().replace("Tumor", LONG))


@pytest.mark.parametrize("width", [1000, 760])
def test_a_narrow_window_shows_everything(page, run, link, width):
    rename_tumor(run)
    page.set_viewport_size({"width": width, "height": 700})
    page.goto("about:blank")
    page.goto(f"{link}#slide=out/b")
    until(page, "window.wsiseg?.main?.images.size >= 7")
    page.keyboard.press("m")
    page.keyboard.press("c")
    until(page, "!!wsiseg.compare.pane?.about")
    parts = "#bar > *, #side *, #panes, .scale"
    outside = f"""[...document.querySelectorAll("{parts}")].filter((one) => {{
        const box = one.getBoundingClientRect();
        const column = one.closest("#stage, #side").getBoundingClientRect();
        return box.width && (box.left < column.left - 1 || box.right > column.right + 1);
    }}).map((one) => one.outerHTML.slice(0, 80))"""
    assert page.evaluate(outside) == []
    assert LONG in page.inner_text("#side")
    stage = "document.getElementById('stage').getBoundingClientRect().right"
    assert page.evaluate(stage) <= page.evaluate(
        "document.getElementById('side').getBoundingClientRect().left"
    )
