"""The page as a document: whole, reachable by its contents, within its size, and on its own."""

from __future__ import annotations

import random
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexmill.tasks.reports.example_queries import MAX_QUERIES, resolve_image_path
from indexmill.tasks.reports.html import MAX_PAGE_BYTES, render_html
from indexmill.tasks.reports.model import RejectGroup, ReportModel
from indexmill.tasks.reports.thumbnails import THUMBNAIL_SIDE, make_thumbnails
from tests.reports import made

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "polyline", "circle", "use"}


class Document(HTMLParser):
    """Elements that are open, ids, targets, pictures without words, the order of headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.wordless: list[str] = []
        self.headings: list[int] = []
        self.pictures = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [given["id"] or ""] if "id" in given and "svg" not in self.open else []
        self.targets += [given["href"][1:]] if tag == "a" and given.get("href", "").startswith("#") else []  # type: ignore[index,union-attr]
        if tag == "img":
            self.pictures += 1
            self.wordless += [] if given.get("alt") else [tag]
        if tag == "svg" and "aria-label" not in given:
            self.wordless.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("kind", ["images", "captions", "texts", "unmeasured"])
def test_a_page_is_well_formed_and_its_contents_lead_somewhere(digits: Path, kind: str) -> None:
    """Every element is closed in turn, ids are unique, each link has its target, each picture its words, no heading level is skipped."""
    made_of = {
        "images": lambda: made.of_images(digits),
        "captions": lambda: made.of_captions(digits),
        "texts": made.of_texts,
        "unmeasured": made.unmeasured,
    }
    document = Document(render_html(made_of[kind]()))
    assert document.open == []
    assert [name for name, times in Counter(document.ids).items() if times > 1] == []
    assert set(document.targets) <= set(document.ids)
    assert len(document.targets) >= 5
    assert document.wordless == []
    assert document.headings[0] == 1
    assert document.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(document.headings, document.headings[1:], strict=False))


def test_queries_are_shown_with_their_pictures(digits: Path) -> None:
    """24 queries with six results each, and the two rejects that can still be read: 170 pictures; what is gone has none."""
    page = render_html(made.of_images(digits))
    assert Document(page).pictures == 24 * 7 + 2
    assert page.count('<span class="blank">no picture</span>') == 1


def test_the_page_wants_nothing_from_outside(digits: Path) -> None:
    """No address but data: and #, in attributes and styles alike; and a policy that allows nothing else stands before all content."""
    page = render_html(made.of_images(digits))
    assert [one for one in re.findall(r'(?:src|href|xlink:href|action)="([^"]*)"', page) if not one.startswith(("data:", "#"))] == []
    assert re.findall(r"url\((?!#)", page) == []
    assert "@import" not in page
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert page.index("Content-Security-Policy") < page.index("<title>") < page.index("<style>")
    assert "default-src 'none'" in page


def test_the_same_contents_make_the_same_page(digits: Path) -> None:
    """Nothing of the moment is in it."""
    assert render_html(made.of_images(digits)) == render_html(made.of_images(digits))


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pictures that do not compress."""
    folder = tmp_path_factory.mktemp("noise")
    draw = np.random.default_rng(0)
    for number in range(200):
        (folder / str(number % 20)).mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (200, 200, 3), np.uint8)).save(folder / str(number % 20) / f"{number}.png", compress_level=1)
    return folder


def test_the_worst_page_stays_below_ten_megabytes(noise: Path) -> None:
    """A hundred queries of each kind with pictures of noise, the longest texts in the widest letters, every list as long as it gets."""
    long = "<&\"'>\U0001f9ea" * 20_000
    contents = made.of_images(noise)
    labels = [f"{long[:200]}{number}" for number in range(60)]
    items = [made.item(at, labels[at % 60], f"{at % 20}/{at}.png", long) | {"key": long} for at in range(200)]
    report_data = made.report_data(items, labels, queries=100)
    report_data["space"] = made.space(labels, 1500)
    reasons = [
        RejectGroup(f"reason {long[:300]}{at}", 10**9, [{"key": long, "path": items[at]["path"], "message": long}] * 6) for at in range(60)
    ]
    manifest = contents.manifest.model_copy(update={"config": {"split": {}, "dataset": {"exclude_labels": [long] * 50}}})
    build_metrics = contents.build_metrics.model_copy(update={"failed_rules": (long,) * 40, "verdict": "refused"})
    page = render_html(ReportModel(build_metrics, manifest, long, report_data, reasons, made.history(60)))
    assert len(page.encode()) < MAX_PAGE_BYTES
    assert page.count("data:image/jpeg") > 100
    assert page.count('class="asked"') == 3 * MAX_QUERIES


def test_thumbnails_stay_within_their_budget_counting_each_use(noise: Path) -> None:
    """What does not fit is passed over; a picture that is shown twice costs twice."""
    paths = [str(path) for path in sorted(noise.rglob("*.png"))[:6]]
    whole = make_thumbnails(paths)
    size = max(map(len, whole.values()))
    assert len(whole) == 6
    assert len(make_thumbnails(paths, budget=3 * size)) == 3
    twice = make_thumbnails([*paths, *paths], budget=3 * size)
    assert len(twice) == 1
    assert make_thumbnails(paths, budget=0) == {}
    assert make_thumbnails([]) == {}


def test_what_cannot_be_read_has_no_thumbnail_and_harms_nobody(tmp_path: Path) -> None:
    """Missing, cut short, not an image, and a header of ten billion pixels; the picture after them is there."""
    good, cut, text, bomb = (tmp_path / name for name in ("good.png", "cut.png", "text.png", "bomb.png"))
    Image.new("RGB", (640, 320), "red").save(good)
    cut.write_bytes(good.read_bytes()[:60])
    text.write_text("no image")
    whole = bytearray(good.read_bytes())
    whole[16:24] = (100_000).to_bytes(4, "big") * 2
    bomb.write_bytes(whole)
    made_of = make_thumbnails([str(path) for path in (tmp_path / "gone.png", cut, text, bomb, good)])
    assert list(made_of) == [str(good)]
    import base64
    import io

    picture = Image.open(io.BytesIO(base64.b64decode(made_of[str(good)].split(",")[1])))
    assert picture.format == "JPEG"
    assert picture.size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 2)


@pytest.mark.parametrize(
    ("path", "inside"), [("a/b.png", True), ("../b.png", False), ("a/../../b.png", False), ("/etc/b.png", False), (None, False)]
)
def test_pictures_come_from_the_data_sets_folder_alone(tmp_path: Path, path: str | None, inside: bool) -> None:
    """A path that leads out of it is not followed."""
    found = resolve_image_path(_with_base(tmp_path), path)
    assert found == (str(tmp_path / str(path)) if inside else None)


def _with_base(image_root: Path) -> ReportModel:
    contents = made.of_texts()
    return ReportModel(contents.build_metrics, contents.manifest.model_copy(update={"image_root": str(image_root)}), "", {}, [], [])


def test_the_order_of_pictures_does_not_depend_on_who_is_first_ready(digits: Path) -> None:
    """Every thumbnail stands under its own path, however many are asked for."""
    paths = [str(path) for path in sorted(digits.rglob("*.png"))]
    shuffled = random.Random(1).sample(paths, len(paths))
    assert make_thumbnails(shuffled) == make_thumbnails(paths)
