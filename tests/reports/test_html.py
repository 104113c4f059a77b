"""The HTML report is well formed, self-contained, and within its size limit."""

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
from tests.reports import report_models

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "polyline", "circle", "use"}


class Document(HTMLParser):
    """Parses a page: open elements, ids, link targets, images without text, heading levels."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.unlabeled: list[str] = []
        self.headings: list[int] = []
        self.images = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [attributes["id"] or ""] if "id" in attributes and "svg" not in self.open else []
        self.targets += [attributes["href"][1:]] if tag == "a" and attributes.get("href", "").startswith("#") else []  # type: ignore[index,union-attr]
        if tag == "img":
            self.images += 1
            self.unlabeled += [] if attributes.get("alt") else [tag]
        if tag == "svg" and "aria-label" not in attributes:
            self.unlabeled.append(tag)
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
def test_a_page_is_well_formed_and_its_links_have_targets(digits: Path, kind: str) -> None:
    """Elements are nested, ids unique, links resolve, images have text, and no heading level is skipped."""
    makers = {
        "images": lambda: report_models.make_images_report(digits),
        "captions": lambda: report_models.make_captions_report(digits),
        "texts": report_models.make_texts_report,
        "unmeasured": report_models.make_unmeasured_report,
    }
    document = Document(render_html(makers[kind]()))
    assert document.open == []
    assert [name for name, times in Counter(document.ids).items() if times > 1] == []
    assert set(document.targets) <= set(document.ids)
    assert len(document.targets) >= 5
    assert document.unlabeled == []
    assert document.headings[0] == 1
    assert document.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(document.headings, document.headings[1:], strict=False))


def test_queries_are_shown_with_their_images(digits: Path) -> None:
    """24 queries with six results each, and two rejects that can be read: 170 images; a missing file has none."""
    page = render_html(report_models.make_images_report(digits))
    assert Document(page).images == 24 * 7 + 2
    assert page.count('<span class="blank">no image</span>') == 1


def test_the_page_refers_to_nothing_outside_itself(digits: Path) -> None:
    """All URLs are data: or #, and a Content-Security-Policy that allows nothing else precedes all content."""
    page = render_html(report_models.make_images_report(digits))
    assert [url for url in re.findall(r'(?:src|href|xlink:href|action)="([^"]*)"', page) if not url.startswith(("data:", "#"))] == []
    assert re.findall(r"url\((?!#)", page) == []
    assert "@import" not in page
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert page.index("Content-Security-Policy") < page.index("<title>") < page.index("<style>")
    assert "default-src 'none'" in page


def test_rendering_is_deterministic(digits: Path) -> None:
    """The same report gives the same page."""
    assert render_html(report_models.make_images_report(digits)) == render_html(report_models.make_images_report(digits))


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 images that do not compress."""
    folder = tmp_path_factory.mktemp("noise")
    random_numbers = np.random.default_rng(0)
    for number in range(200):
        (folder / str(number % 20)).mkdir(exist_ok=True)
        Image.fromarray(random_numbers.integers(0, 255, (200, 200, 3), np.uint8)).save(
            folder / str(number % 20) / f"{number}.png", compress_level=1
        )
    return folder


@pytest.mark.slow
def test_the_largest_page_stays_below_ten_megabytes(noise: Path) -> None:
    """A hundred noise images per group, the longest texts in the widest characters, and every list at its maximum."""
    long = "<&\"'>\U0001f9ea" * 20_000
    report = report_models.make_images_report(noise)
    labels = [f"{long[:200]}{number}" for number in range(60)]
    items = [report_models.make_item(at, labels[at % 60], f"{at % 20}/{at}.png", long) | {"key": long} for at in range(200)]
    report_data = report_models.make_report_data(items, labels, queries=100)
    report_data["space"] = report_models.make_space(labels, 1500)
    reasons = [
        RejectGroup(f"reason {long[:300]}{at}", 10**9, [{"key": long, "path": items[at]["path"], "message": long}] * 6) for at in range(60)
    ]
    manifest = report.manifest.model_copy(update={"config": {"split": {}, "dataset": {"exclude_labels": [long] * 50}}})
    build_metrics = report.build_metrics.model_copy(update={"failed_rules": (long,) * 40, "verdict": "refused"})
    page = render_html(ReportModel(build_metrics, manifest, long, report_data, reasons, report_models.make_history(60)))
    assert len(page.encode()) < MAX_PAGE_BYTES
    assert page.count("data:image/jpeg") > 100
    assert page.count('class="query"') == 3 * MAX_QUERIES


def test_thumbnails_stay_within_their_budget(noise: Path) -> None:
    """What does not fit is skipped, and an image that is shown twice costs twice."""
    paths = [str(path) for path in sorted(noise.rglob("*.png"))[:6]]
    whole = make_thumbnails(paths)
    size = max(map(len, whole.values()))
    assert len(whole) == 6
    assert len(make_thumbnails(paths, budget=3 * size)) == 3
    twice = make_thumbnails([*paths, *paths], budget=3 * size)
    assert len(twice) == 1
    assert make_thumbnails(paths, budget=0) == {}
    assert make_thumbnails([]) == {}


def test_unreadable_files_have_no_thumbnail(tmp_path: Path) -> None:
    """Missing, truncated, not an image, or ten billion pixels; the image after them still has one."""
    good, cut, text, bomb = (tmp_path / name for name in ("good.png", "cut.png", "text.png", "bomb.png"))
    Image.new("RGB", (640, 320), "red").save(good)
    cut.write_bytes(good.read_bytes()[:60])
    text.write_text("no image")
    whole = bytearray(good.read_bytes())
    whole[16:24] = (100_000).to_bytes(4, "big") * 2
    bomb.write_bytes(whole)
    thumbnails = make_thumbnails([str(path) for path in (tmp_path / "gone.png", cut, text, bomb, good)])
    assert list(thumbnails) == [str(good)]
    import base64
    import io

    image = Image.open(io.BytesIO(base64.b64decode(thumbnails[str(good)].split(",")[1])))
    assert image.format == "JPEG"
    assert image.size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 2)


@pytest.mark.parametrize(
    ("path", "inside"), [("a/b.png", True), ("../b.png", False), ("a/../../b.png", False), ("/etc/b.png", False), (None, False)]
)
def test_images_outside_the_image_root_are_not_read(tmp_path: Path, path: str | None, inside: bool) -> None:
    """Absolute paths and paths with `..` are ignored."""
    resolved = resolve_image_path(_make_report(tmp_path), path)
    assert resolved == (str(tmp_path / str(path)) if inside else None)


def _make_report(image_root: Path) -> ReportModel:
    report = report_models.make_texts_report()
    return ReportModel(report.build_metrics, report.manifest.model_copy(update={"image_root": str(image_root)}), "", {}, [], [])


def test_thumbnails_keep_their_paths_in_any_order(digits: Path) -> None:
    """Every thumbnail belongs to its own path, however many are made at once."""
    paths = [str(path) for path in sorted(digits.rglob("*.png"))]
    shuffled = random.Random(1).sample(paths, len(paths))
    assert make_thumbnails(shuffled) == make_thumbnails(paths)
