"""The search page in a real browser: type, click, drop, filter, no results, an error, a slow service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.browser import CHROMIUM, Browser
from tests.serve.conftest import SENTENCES, RunningService

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")

CARDS = "document.querySelectorAll('#results li').length"
STATUS = "document.querySelector('#status').textContent"
ERROR = "!document.querySelector('#error').hidden && document.querySelector('#error').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser: Browser, running: RunningService) -> Iterator[Browser]:
    """The page, opened on `sentences`. After each test: no console errors, and no requests to another host."""
    browser.set_window()
    browser.errors.clear()
    browser.requests.clear()
    browser.open(f"http://127.0.0.1:{running.port}/?index=sentences")
    browser.wait(f"{STATUS}.includes('12 texts')")
    yield browser
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith((f"http://127.0.0.1:{running.port}/", "blob:", "data:"))] == []


def get_texts(page: Browser) -> list[str]:
    return list(page.evaluate("[...document.querySelectorAll('#results .text')].map(e => e.textContent)"))


def get_keys(page: Browser) -> list[str]:
    return list(page.evaluate("[...document.querySelectorAll('#results .key')].map(e => e.textContent)"))


def select_image_index(page: Browser) -> None:
    page.evaluate(
        "document.querySelector('#index').value = 'demo-images'; document.querySelector('#index').dispatchEvent(new Event('change'))"
    )
    page.wait(f"{STATUS}.includes('120 images')")


def test_a_typed_query_shows_results_and_timing(page: Browser, running: RunningService) -> None:
    """The sentence itself comes first, markup in data is shown as text, and the address can be shared."""
    page.click("#text")
    page.type(SENTENCES[11][1])
    page.press("Enter", 13, "\r")
    page.wait(f"{CARDS} === 12")
    assert get_texts(page)[0] == SENTENCES[11][1]
    assert get_keys(page)[0] == "s11"
    status = page.evaluate(STATUS)
    assert status.startswith("12 results. Snapshot 00001-")
    assert ". Encoding " in status
    assert ", search " in status
    assert page.evaluate("location.search").startswith("?index=sentences&q=%3Cscript%3E")
    page.open(page.evaluate("location.href"))
    page.wait(f"{CARDS} === 12")
    assert get_keys(page)[0] == "s11"


def test_more_like_this_works_by_keyboard_alone(page: Browser) -> None:
    """Tab to the button of the second result and press Enter: that result comes first."""
    page.click("#text")
    page.type("boats")
    page.press("Enter", 13, "\r")
    page.wait(f"{CARDS} === 12")
    second = get_keys(page)[1]
    for _ in range(40):
        page.press("Tab", 9)
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == f"More like {second}":
            break
    page.press("Enter", 13, "\r")
    page.wait(f"document.querySelector('#results .key')?.textContent === '{second}'")
    assert page.evaluate("document.querySelector('#text').value") == ""


def test_a_label_filters_and_an_unknown_label_says_so(page: Browser) -> None:
    """A click on a result's label filters by it; a label without items gives a sentence."""
    page.click("#text")
    page.type("soup")
    page.press("Enter", 13, "\r")
    page.wait(f"{CARDS} === 12")
    page.click("#results .label")
    page.wait(f"{CARDS} === 3")
    assert set(page.evaluate("[...document.querySelectorAll('#results .label')].map(e => e.textContent)")) == {"kitchen"}
    page.evaluate("document.querySelector('#label').value = 'garden'; document.querySelector('#label').dispatchEvent(new Event('change'))")
    assert page.wait(f"{STATUS}.includes('No items with the label') && {STATUS}").startswith("No items with the label “garden”.")
    assert page.evaluate(CARDS) == 0


def test_a_dropped_image_finds_itself_and_similar_ones(page: Browser, digits: Path) -> None:
    """The image itself comes first, with its thumbnail; a click on `More like this` searches with another one."""
    select_image_index(page)
    assert page.evaluate("document.querySelector('#by-text').hidden")
    path = sorted(digits.rglob("*.png"))[30]
    page.drop("#drop", path)
    page.wait(f"{CARDS} === 24")
    assert get_keys(page)[0] == path.relative_to(digits).as_posix()
    page.wait("document.querySelector('#results img').complete && document.querySelector('#results img').naturalWidth > 0")
    assert path.name in page.evaluate("document.querySelector('#hint').textContent")
    other = get_keys(page)[3]
    page.click("#results li:nth-child(4) .more")
    page.wait(f"document.querySelector('#results .key')?.textContent === '{other}'")


def test_a_file_that_is_not_an_image_shows_an_error(page: Browser, tmp_path: Path) -> None:
    """The service's message is announced as an alert."""
    select_image_index(page)
    (tmp_path / "fake.png").write_bytes(b"not an image at all")
    node = page.call("DOM.querySelector", nodeId=page.call("DOM.getDocument")["root"]["nodeId"], selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", files=[str(tmp_path / "fake.png")], nodeId=node)
    assert "The query image cannot be read" in page.wait(ERROR)
    assert page.evaluate("document.querySelector('#error').getAttribute('role')") == "alert"
    page.errors[:] = [error for error in page.errors if "422" not in error]  # Chromium logs every response of 400 and above


def test_a_slow_search_shows_progress_and_a_new_one_replaces_it(page: Browser) -> None:
    """With 1.5 s of latency the page says that it is searching; only the second query's results are shown."""
    page.call("Network.emulateNetworkConditions", offline=False, latency=1500, downloadThroughput=-1, uploadThroughput=-1)
    try:
        page.click("#text")
        page.type("judge")
        page.press("Enter", 13, "\r")
        assert page.wait("document.body.classList.contains('busy')")
        assert page.evaluate(STATUS) == "Searching…"
        page.evaluate(f"document.querySelector('#text').value = {SENTENCES[4][1]!r}")
        page.press("Enter", 13, "\r")
        page.wait(f"{CARDS} === 12 && !document.body.classList.contains('busy')")
        assert get_keys(page)[0] == "s04"
    finally:
        page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)


def test_an_unreachable_service_shows_an_error(page: Browser) -> None:
    """Offline, the page shows a sentence instead of waiting forever."""
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    try:
        page.click("#text")
        page.type("judge")
        page.press("Enter", 13, "\r")
        assert page.wait(ERROR) == "The service does not respond."
    finally:
        page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.errors.clear()


def test_the_page_asks_for_the_token_of_a_protected_service(
    page: Browser, running: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the token the index loads."""
    monkeypatch.setattr(running.app, "token", "t" * 32)
    page.open(f"http://127.0.0.1:{running.port}/?index=demo-images")
    page.wait("!document.querySelector('#access').hidden")
    page.click("#token")
    page.type("t" * 32)
    page.press("Enter", 13, "\r")
    page.wait(f"{STATUS}.includes('120 images')")
    page.errors.clear()
    page.evaluate("sessionStorage.clear()")


def test_the_page_fits_a_phone_and_is_readable_in_light_and_dark(page: Browser) -> None:
    """Nothing is wider than 360 pixels, text has a contrast of at least 4.5 to 1, and every control has a name."""
    for dark in (False, True):
        page.set_window(width=360, height=740, phone=True, dark=dark)
        page.evaluate("document.querySelector('#text').value = 'sea'; document.querySelector('#form').requestSubmit()")
        page.wait(f"{CARDS} === 12")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for selector in ("body", "#status", ".key", ".more", "#by-text button"):
            assert page.evaluate(CONTRAST % selector) >= 4.5, (selector, dark)
    names = [
        node
        for node in page.call("Accessibility.getFullAXTree")["nodes"]
        if node.get("role", {}).get("value") in ("button", "textbox", "searchbox", "combobox", "link", "list")
    ]
    assert len(names) > 20
    assert [node for node in names if not node["name"]["value"]] == []


CONTRAST = """(() => {
  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const luminance = (color) => {
    context.clearRect(0, 0, 1, 1); context.fillStyle = color; context.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let element = document.querySelector('%s');
  const text = luminance(getComputedStyle(element).color);
  while (element.parentElement && getComputedStyle(element).backgroundColor === 'rgba(0, 0, 0, 0)') element = element.parentElement;
  const background = luminance(getComputedStyle(element).backgroundColor);
  return (Math.max(text, background) + 0.05) / (Math.min(text, background) + 0.05);
})()"""
