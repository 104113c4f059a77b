"""The report of a real build in a real browser."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.conftest import Build
from tests.reports.browser import Browser
from tests.reports.conftest import browser  # noqa: F401  # a fixture

WIDTH = "document.documentElement.scrollWidth"
PAGE_SUMMARY = """[document.querySelector('.verdict').innerText.split('\\n')[0],
  [...document.querySelectorAll('figure > svg')].map((svg) => svg.getAttribute('aria-label')),
  document.querySelectorAll('.query img').length, document.querySelectorAll('.rejects img').length,
  document.getElementById('rotate') !== null]"""


def test_the_report_of_a_build_opens_from_disk_without_errors_or_requests(
    build: Build,
    pictures: Path,
    tmp_path: Path,
    browser: Browser,  # noqa: F811
) -> None:
    """Copied to another folder it shows the verdict, plots, query images and a reject, and loads nothing."""
    (pictures / "3" / "<b>thin.png").write_bytes(next((pictures / "3").glob("*.png")).read_bytes()[:40])
    report = Path(build(pictures, "validate.max_reject_fraction=0.5")["report"])
    copy = Path(shutil.copy(report, tmp_path / "alone.html"))  # alone in its folder
    for width in (1200, 420):
        visit = browser.visit(copy, PAGE_SUMMARY, WIDTH, width=width)
        verdict, plots, query_images, reject_images, has_3d_plot = visit.values[0]
        assert visit.errors == []
        assert visit.requests == []
        assert visit.values[1] == width
        assert verdict == "✓ Published"
        assert {"Precision against recall", "Principal components in two dimensions"} <= set(plots)
        assert query_images >= 7
        assert reject_images == 0
        assert has_3d_plot
    assert "&lt;b&gt;thin.png" in copy.read_text(encoding="utf-8")
    assert (report.parent / "report.md").read_text(encoding="utf-8").startswith("# demo-images: ✓ published")
