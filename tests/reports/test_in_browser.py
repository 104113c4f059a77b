"""Pages as a browser sees them: in both colours, on a phone, in print, and without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexmill.tasks.reports.html import render_html
from indexmill.tasks.reports.model import ReportModel
from tests.reports import made
from tests.reports.browser import Browser

WIDTH = "document.documentElement.scrollWidth"
LOADED = """document.images.length && Promise.all([...document.images].map((one) => one.decode().then(() => 0, () => 1)))
  .then((all) => all.reduce((a, b) => a + b, 0))"""
DRAWN = "document.getElementById('turning').toDataURL()"
FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
KEY = "document.getElementById('turning').dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft', bubbles: true }))"
DRAG = """(() => { const c = document.getElementById('turning'); c.scrollIntoView(); const r = c.getBoundingClientRect();
  c.setPointerCapture = () => {};
  const say = (kind, x, type) => c.dispatchEvent(new PointerEvent(kind, { clientX: r.x + x, clientY: r.y + 50, pointerType: type }));
  say('pointerdown', 20, '%s'); say('pointermove', 120, '%s'); say('pointerup', 120, '%s'); })()"""
LABEL_COLORS = "getComputedStyle(document.body).backgroundColor + ' ' + getComputedStyle(document.body).color"


@pytest.fixture(scope="module")
def all_kinds(digits: Path) -> dict[str, ReportModel]:
    return {
        "images": made.of_images(digits), "captions": made.of_captions(digits), "texts": made.of_texts(),
        "refused": made.refused(made.of_images(digits)), "unmeasured": made.unmeasured(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def pages(all_kinds: dict[str, ReportModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, contents in all_kinds.items():
        (folder / f"{name}.html").write_text(render_html(contents), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in all_kinds}


def test_what_the_browser_is_asked_about_can_be_seen(browser: Browser, tmp_path: Path) -> None:
    """A page that is too wide, complains and wants the network is told apart, or the tests below could not fail."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<meta name=viewport content='width=device-width'><body style='width: 900px'>"
        "<img src='http://127.0.0.1:9/x.png'><script>console.error('no'); nothing();</script>"
    )
    look = browser.look(page, WIDTH, width=420)
    assert look.requests == ["http://127.0.0.1:9/x.png"]
    assert len(look.complaints) >= 2
    assert look.values[0] > 900


@pytest.mark.parametrize("kind", ["images", "captions", "texts", "refused", "unmeasured"])
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (420, True), (420, False)])
def test_a_page_asks_for_nothing_and_fits(browser: Browser, pages: dict[str, Path], kind: str, width: int, dark: bool) -> None:
    """No console message, no request, no page-wide scrolling, details folded out too; every picture decodes; dark is dark."""
    unfold = "document.querySelectorAll('details').forEach((one) => (one.open = true))"
    look = browser.look(pages[kind], WIDTH, unfold, WIDTH, LOADED, LABEL_COLORS, width=width, dark=dark)
    assert look.complaints == []
    assert look.requests == []
    assert [look.values[0], look.values[2], look.values[3]] == [width, width, 0]
    assert look.values[4] == ("rgb(18, 20, 23) rgb(231, 233, 236)" if dark else "rgb(250, 250, 248) rgb(27, 30, 35)")


def test_hostile_data_runs_nothing(browser: Browser, digits: Path, tmp_path: Path) -> None:
    """Names, texts and labels that try to run a script or load a picture are shown as they are."""
    from tests.reports.test_hostile import hostile

    page = tmp_path / "hostile.html"
    page.write_text(render_html(hostile(made.of_images(digits))), encoding="utf-8")
    look = browser.look(page, WIDTH, "window.hurt === undefined", "document.body.innerText.includes('<script>')", width=420)
    assert look.complaints == []
    assert look.requests == []
    assert look.values == [420, True, True]


def test_the_policy_stops_what_escaping_would_let_through(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    """Were markup ever to slip in, its script would not run and its picture would not be fetched."""
    slipped = "<script>window.hurt = 1</script><img src='http://127.0.0.1:9/x.png' onerror='window.hurt = 1'></main>"
    page = tmp_path / "slipped.html"
    page.write_text(pages["unmeasured"].read_text(encoding="utf-8").replace("</main>", slipped), encoding="utf-8")
    look = browser.look(page, "window.hurt === undefined")
    assert look.values == [True]
    assert "Content Security Policy" in " ".join(look.complaints)


@pytest.mark.parametrize("move", [KEY, DRAG.replace("%s", "mouse"), DRAG.replace("%s", "touch")], ids=["keyboard", "mouse", "touch"])
def test_the_space_turns(browser: Browser, pages: dict[str, Path], move: str) -> None:
    """An arrow key, a drag and a swipe each draw the cloud from another side."""
    look = browser.look(pages["images"], FRAMES, DRAWN, FRAMES, DRAWN, move, FRAMES, DRAWN)
    assert look.complaints == []
    assert look.values[1] == look.values[3]
    assert look.values[6] != look.values[3]


@pytest.mark.parametrize(("reduced", "moves"), [(True, False), (False, True)])
def test_it_turns_by_itself_only_for_those_who_did_not_ask_for_calm(
    browser: Browser, pages: dict[str, Path], reduced: bool, moves: bool
) -> None:
    """In view, the cloud turns a little by itself, unless the reader prefers reduced motion."""
    see = "document.getElementById('turning').scrollIntoView({ block: 'center', behavior: 'instant' })"
    patience = 20 if moves else 1  # seconds: a busy machine may draw late, but it draws
    turned = f"""(async () => {{ const first = {DRAWN}; const end = Date.now() + {patience * 1000};
      while (Date.now() < end) {{ await new Promise((done) => setTimeout(done, 100)); if ({DRAWN} !== first) return true; }}
      return false; }})()"""
    look = browser.look(pages["images"], see, FRAMES, turned, reduced=reduced)
    assert look.values[2] is moves


def test_print_shows_all_on_white(browser: Browser, pages: dict[str, Path]) -> None:
    """On paper the details are open, whatever the screen's colours, and go back to how they were."""
    events = "dispatchEvent(new Event('%s')); document.querySelectorAll('details:not([open])').length"
    look = browser.look(pages["images"], LABEL_COLORS, events % "beforeprint", events % "afterprint", dark=True, media="print")
    assert look.values[0].startswith("rgb(255, 255, 255) rgb(27, 30, 35)")
    assert look.values[1] == 0
    assert look.values[2] > 0
