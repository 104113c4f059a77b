"""The report in a real browser: light and dark, on a phone, in print, and without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexmill.tasks.reports.html import render_html
from indexmill.tasks.reports.model import ReportModel
from tests.reports import report_models
from tests.reports.browser import Browser

WIDTH = "document.documentElement.scrollWidth"
LOADED = """document.images.length && Promise.all([...document.images].map((image) => image.decode().then(() => 0, () => 1)))
  .then((all) => all.reduce((a, b) => a + b, 0))"""
CANVAS = "document.getElementById('rotate').toDataURL()"
FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
KEY = "document.getElementById('rotate').dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft', bubbles: true }))"
DRAG = """(() => { const c = document.getElementById('rotate'); c.scrollIntoView(); const r = c.getBoundingClientRect();
  c.setPointerCapture = () => {};
  const send = (kind, x, type) => c.dispatchEvent(new PointerEvent(kind, { clientX: r.x + x, clientY: r.y + 50, pointerType: type }));
  send('pointerdown', 20, '%s'); send('pointermove', 120, '%s'); send('pointerup', 120, '%s'); })()"""
PAGE_COLORS = "getComputedStyle(document.body).backgroundColor + ' ' + getComputedStyle(document.body).color"


@pytest.fixture(scope="module")
def reports(digits: Path) -> dict[str, ReportModel]:
    return {
        "images": report_models.make_images_report(digits),
        "captions": report_models.make_captions_report(digits),
        "texts": report_models.make_texts_report(),
        "refused": report_models.refuse(report_models.make_images_report(digits)),
        "unmeasured": report_models.make_unmeasured_report(),
    }


@pytest.fixture(scope="module")
def pages(reports: dict[str, ReportModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, report in reports.items():
        (folder / f"{name}.html").write_text(render_html(report), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in reports}


def test_the_browser_reports_errors_requests_and_overflow(browser: Browser, tmp_path: Path) -> None:
    """A page that is too wide, logs errors and loads an image is detected; otherwise the tests below could not fail."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<meta name=viewport content='width=device-width'><body style='width: 900px'>"
        "<img src='http://127.0.0.1:9/x.png'><script>console.error('no'); nothing();</script>"
    )
    visit = browser.visit(page, WIDTH, width=420)
    assert visit.requests == ["http://127.0.0.1:9/x.png"]
    assert len(visit.errors) >= 2
    assert visit.values[0] > 900


KINDS = ("images", "captions", "texts", "refused", "unmeasured")


@pytest.mark.parametrize(
    ("width", "dark", "kind"),
    [
        *((1200, False, kind) for kind in KINDS),
        (420, True, "images"),
        *(pytest.param(420, True, kind, marks=pytest.mark.slow) for kind in KINDS[1:]),
        *(pytest.param(420, False, kind, marks=pytest.mark.slow) for kind in KINDS),
    ],
)
def test_a_page_loads_without_errors_or_requests_and_fits_the_window(
    browser: Browser, pages: dict[str, Path], kind: str, width: int, dark: bool
) -> None:
    """No console message, request or horizontal scrolling, with details open too; every image decodes."""
    open_details = "document.querySelectorAll('details').forEach((details) => (details.open = true))"
    visit = browser.visit(pages[kind], WIDTH, open_details, WIDTH, LOADED, PAGE_COLORS, width=width, dark=dark)
    assert visit.errors == []
    assert visit.requests == []
    assert [visit.values[0], visit.values[2], visit.values[3]] == [width, width, 0]
    assert visit.values[4] == ("rgb(18, 20, 23) rgb(231, 233, 236)" if dark else "rgb(250, 250, 248) rgb(27, 30, 35)")


def test_hostile_data_runs_nothing(browser: Browser, digits: Path, tmp_path: Path) -> None:
    """Names, texts and labels that try to run a script or load an image are shown as text."""
    from tests.reports.test_hostile import make_hostile

    page = tmp_path / "hostile.html"
    page.write_text(render_html(make_hostile(report_models.make_images_report(digits))), encoding="utf-8")
    visit = browser.visit(page, WIDTH, "window.hurt === undefined", "document.body.innerText.includes('<script>')", width=420)
    assert visit.errors == []
    assert visit.requests == []
    assert visit.values == [420, True, True]


def test_the_content_security_policy_blocks_injected_markup(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    """If escaping failed, an injected script would not run and an injected image would not be loaded."""
    injected = "<script>window.hurt = 1</script><img src='http://127.0.0.1:9/x.png' onerror='window.hurt = 1'></main>"
    page = tmp_path / "injected.html"
    page.write_text(pages["unmeasured"].read_text(encoding="utf-8").replace("</main>", injected), encoding="utf-8")
    visit = browser.visit(page, "window.hurt === undefined")
    assert visit.values == [True]
    assert "Content Security Policy" in " ".join(visit.errors)


@pytest.mark.parametrize("action", [KEY, DRAG.replace("%s", "mouse"), DRAG.replace("%s", "touch")], ids=["keyboard", "mouse", "touch"])
def test_the_3d_plot_rotates(browser: Browser, pages: dict[str, Path], action: str) -> None:
    """An arrow key, a drag and a swipe each redraw it from another angle."""
    visit = browser.visit(pages["images"], FRAMES, CANVAS, FRAMES, CANVAS, action, FRAMES, CANVAS)
    assert visit.errors == []
    assert visit.values[1] == visit.values[3]
    assert visit.values[6] != visit.values[3]


@pytest.mark.parametrize(("reduced", "rotates"), [(True, False), (False, True)])
def test_the_3d_plot_rotates_by_itself_unless_reduced_motion_is_preferred(
    browser: Browser, pages: dict[str, Path], reduced: bool, rotates: bool
) -> None:
    """A short rotation starts when the plot comes into view."""
    scroll_into_view = "document.getElementById('rotate').scrollIntoView({ block: 'center', behavior: 'instant' })"
    seconds = 20 if rotates else 1  # a busy machine may draw late
    rotated = f"""(async () => {{ const first = {CANVAS}; const end = Date.now() + {seconds * 1000};
      while (Date.now() < end) {{ await new Promise((done) => setTimeout(done, 100)); if ({CANVAS} !== first) return true; }}
      return false; }})()"""
    visit = browser.visit(pages["images"], scroll_into_view, FRAMES, rotated, reduced=reduced)
    assert visit.values[2] is rotates


def test_print_shows_everything_on_white(browser: Browser, pages: dict[str, Path]) -> None:
    """In print, details are open on a white page even in dark mode; afterwards they are closed again."""
    events = "dispatchEvent(new Event('%s')); document.querySelectorAll('details:not([open])').length"
    visit = browser.visit(pages["images"], PAGE_COLORS, events % "beforeprint", events % "afterprint", dark=True, media="print")
    assert visit.values[0].startswith("rgb(255, 255, 255) rgb(27, 30, 35)")
    assert visit.values[1] == 0
    assert visit.values[2] > 0
