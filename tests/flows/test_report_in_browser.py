"""The report of a real build as a browser sees it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.conftest import Build
from tests.reports.browser import Browser
from tests.reports.conftest import browser  # noqa: F401  # a fixture

WIDTH = "document.documentElement.scrollWidth"
SEEN = """[document.querySelector('.verdict').innerText.split('\\n')[0],
  [...document.querySelectorAll('figure > svg')].map((one) => one.getAttribute('aria-label')),
  document.querySelectorAll('.asked img').length, document.querySelectorAll('.rejects img').length,
  document.getElementById('turning') !== null]"""


def test_the_report_opens_from_disk_with_its_pictures_and_without_a_complaint(
    build: Build,
    pictures: Path,
    tmp_path: Path,
    browser: Browser,  # noqa: F811
) -> None:
    """Alone in a folder, with no network: verdict, plots, the pictures of queries are there, a reject by name; nothing is asked for."""
    (pictures / "3" / "<b>thin.png").write_bytes(next((pictures / "3").glob("*.png")).read_bytes()[:40])
    report = Path(build(pictures, "validate.max_reject_fraction=0.5")["report"])
    copy = Path(shutil.copy(report, tmp_path / "alone.html"))  # what it needs must be inside
    for width in (1200, 420):
        look = browser.look(copy, SEEN, WIDTH, width=width)
        verdict, plots, shown, rejected, turns = look.values[0]
        assert look.complaints == []
        assert look.requests == []
        assert look.values[1] == width
        assert verdict == "✓ Published"
        assert {"Precision against recall", "Principal components in two dimensions"} <= set(plots)
        assert shown >= 7
        assert rejected == 0
        assert turns
    assert "&lt;b&gt;thin.png" in copy.read_text(encoding="utf-8")
    assert (report.parent / "report.md").read_text(encoding="utf-8").startswith("# demo-images: ✓ published")
