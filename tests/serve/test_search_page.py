"""The page in a real browser: type, click, drop, filter, nothing found, an error, a slow service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.browser import CHROMIUM, Browser
from tests.serve.conftest import SENTENCES, RunningService

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")

CARDS = "document.querySelectorAll('#results li').length"
STATUS = "document.querySelector('#status').textContent"
PROBLEM = "!document.querySelector('#problem').hidden && document.querySelector('#problem').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser: Browser, running: RunningService) -> Iterator[Browser]:
    """The page, as it opens on the index of sentences. After each test: no complaint on the console, nothing asked of anyone else."""
    browser.look()
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(f"http://127.0.0.1:{running.port}/?index=sentences")
    browser.wait(f"{STATUS}.includes('12 texts')")
    yield browser
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith((f"http://127.0.0.1:{running.port}/", "blob:", "data:"))] == []


def texts(page: Browser) -> list[str]:
    return list(page.ask("[...document.querySelectorAll('#results .text')].map(e => e.textContent)"))


def keys(page: Browser) -> list[str]:
    return list(page.ask("[...document.querySelectorAll('#results .key')].map(e => e.textContent)"))


def pictures(page: Browser) -> None:
    page.ask("document.querySelector('#index').value = 'demo-images'; document.querySelector('#index').dispatchEvent(new Event('change'))")
    page.wait(f"{STATUS}.includes('120 images')")


def test_typing_and_enter_show_what_was_found_and_who_answered(page: Browser, running: RunningService) -> None:
    """The sentence itself first; snapshot and both times in the status; markup in data is text; the address can be shared."""
    page.click("#text")
    page.type(SENTENCES[11][1])
    page.press("Enter", 13, "\r")
    page.wait(f"{CARDS} === 12")
    assert texts(page)[0] == SENTENCES[11][1]
    assert keys(page)[0] == "s11"
    told = page.ask(STATUS)
    assert told.startswith("12 results. Snapshot 00001-")
    assert "encoded in" in told
    assert "searched in" in told
    assert page.ask("location.search").startswith("?index=sentences&q=%3Cscript%3E")
    page.open(page.ask("location.href"))
    page.wait(f"{CARDS} === 12")
    assert keys(page)[0] == "s11"


def test_more_like_this_asks_with_the_item_by_keyboard_alone(page: Browser) -> None:
    """Tab to the button of the second result, Enter: that result comes first."""
    page.click("#text")
    page.type("boats")
    page.press("Enter", 13, "\r")
    page.wait(f"{CARDS} === 12")
    second = keys(page)[1]
    for _ in range(40):
        page.press("Tab", 9)
        if page.ask("document.activeElement.getAttribute('aria-label')") == f"More like {second}":
            break
    page.press("Enter", 13, "\r")
    page.wait(f"document.querySelector('#results .key')?.textContent === '{second}'")
    assert page.ask("document.querySelector('#text').value") == ""


def test_a_label_filters_and_one_that_nothing_has_says_so(page: Browser) -> None:
    """By a click on a result's label; an empty answer is a sentence."""
    page.click("#text")
    page.type("soup")
    page.press("Enter", 13, "\r")
    page.wait(f"{CARDS} === 12")
    page.click("#results .label")
    page.wait(f"{CARDS} === 3")
    assert set(page.ask("[...document.querySelectorAll('#results .label')].map(e => e.textContent)")) == {"kitchen"}
    page.ask("document.querySelector('#label').value = 'garden'; document.querySelector('#label').dispatchEvent(new Event('change'))")
    assert page.wait(f"{STATUS}.includes('Nothing has the label') && {STATUS}").startswith("Nothing has the label “garden”.")
    assert page.ask(CARDS) == 0


def test_a_dropped_picture_finds_itself_and_its_likes(page: Browser, digits: Path) -> None:
    """Dropped, its own picture comes first, with a thumbnail that has loaded; a click on `more` asks with another."""
    pictures(page)
    assert page.ask("document.querySelector('#by-text').hidden")
    path = sorted(digits.rglob("*.png"))[30]
    page.drop("#drop", path)
    page.wait(f"{CARDS} === 24")
    assert keys(page)[0] == path.relative_to(digits).as_posix()
    page.wait("document.querySelector('#results img').complete && document.querySelector('#results img').naturalWidth > 0")
    assert path.name in page.ask("document.querySelector('#hint').textContent")
    other = keys(page)[3]
    page.click("#results li:nth-child(4) .more")
    page.wait(f"document.querySelector('#results .key')?.textContent === '{other}'")


def test_a_chosen_file_that_is_no_picture_is_an_error_in_words(page: Browser, tmp_path: Path) -> None:
    """From the service, beside the form, announced as an alert; the results are gone."""
    pictures(page)
    (tmp_path / "fake.png").write_bytes(b"not a picture at all")
    node = page.call("DOM.querySelector", nodeId=page.call("DOM.getDocument")["root"]["nodeId"], selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", files=[str(tmp_path / "fake.png")], nodeId=node)
    assert "The query image cannot be read" in page.wait(PROBLEM)
    assert page.ask("document.querySelector('#problem').getAttribute('role')") == "alert"
    page.complaints[:] = [one for one in page.complaints if "422" not in one]  # Chromium logs every answer of 400 and more


def test_a_slow_service_is_shown_as_busy_and_a_new_question_takes_over(page: Browser) -> None:
    """With two seconds of delay the page says that it searches; the second question's answer is the one that is shown."""
    page.call("Network.emulateNetworkConditions", offline=False, latency=1500, downloadThroughput=-1, uploadThroughput=-1)
    try:
        page.click("#text")
        page.type("judge")
        page.press("Enter", 13, "\r")
        assert page.wait("document.body.classList.contains('busy')")
        assert page.ask(STATUS) == "Searching …"
        page.ask(f"document.querySelector('#text').value = {SENTENCES[4][1]!r}")
        page.press("Enter", 13, "\r")
        page.wait(f"{CARDS} === 12 && !document.body.classList.contains('busy')")
        assert keys(page)[0] == "s04"
    finally:
        page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)


def test_a_service_that_is_gone_is_said(page: Browser) -> None:
    """Offline: a sentence, and not an endless wait."""
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    try:
        page.click("#text")
        page.type("judge")
        page.press("Enter", 13, "\r")
        assert page.wait(PROBLEM) == "The service does not answer."
    finally:
        page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.complaints.clear()


def test_with_a_token_the_page_asks_for_it_and_then_works(page: Browser, running: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search and pictures then carry it."""
    monkeypatch.setattr(running.app, "token", "t" * 32)
    page.open(f"http://127.0.0.1:{running.port}/?index=demo-images")
    page.wait("!document.querySelector('#access').hidden")
    page.click("#token")
    page.type("t" * 32)
    page.press("Enter", 13, "\r")
    page.wait(f"{STATUS}.includes('120 images')")
    page.complaints.clear()
    page.ask("sessionStorage.clear()")


def test_the_page_fits_a_phone_and_reads_in_the_dark(page: Browser) -> None:
    """At 360 pixels nothing is wider than the window; text keeps a contrast of 4.5 to 1 in light and dark; every control has a name."""
    for dark in (False, True):
        page.look(width=360, height=740, phone=True, dark=dark)
        page.ask("document.querySelector('#text').value = 'sea'; document.querySelector('#form').requestSubmit()")
        page.wait(f"{CARDS} === 12")
        assert page.ask("document.documentElement.scrollWidth") <= 360
        for selector in ("body", "#status", ".key", ".more", "#by-text button"):
            assert page.ask(CONTRAST % selector) >= 4.5, (selector, dark)
    names = [node for node in page.call("Accessibility.getFullAXTree")["nodes"]
             if node.get("role", {}).get("value") in ("button", "textbox", "searchbox", "combobox", "link", "list")]  # fmt: skip
    assert len(names) > 20
    assert [node for node in names if not node["name"]["value"]] == []


CONTRAST = """(() => {
  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = (colour) => {
    context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let element = document.querySelector('%s');
  const ink = light(getComputedStyle(element).color);
  while (element.parentElement && getComputedStyle(element).backgroundColor === 'rgba(0, 0, 0, 0)') element = element.parentElement;
  const ground = light(getComputedStyle(element).backgroundColor);
  return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
})()"""
