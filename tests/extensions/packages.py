"""Packages as pip would install them: modules beside the metadata of a distribution. The one of the guides is read from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def read_example(name: str) -> str:
    """Return the code block of a guide that starts with a comment of this name, such as `acme_search/encoder.py`."""
    pattern = re.compile(rf"^```\w+\n# {re.escape(name)}\n(.*?)^```", re.M | re.S)
    (block,) = [block for page in sorted(DOCS.glob("*.md")) for block in pattern.findall(page.read_text(encoding="utf-8"))]
    return block


def write_example_package(folder: Path) -> Path:
    """Write the source tree of the package in the guides, which pip can install."""
    (folder / "acme_search").mkdir(parents=True)
    (folder / "acme_search" / "__init__.py").touch()
    for name in ("acme_search/encoder.py", "acme_search/source.py", "acme_search/measures.py", "pyproject.toml"):
        (folder / name).write_text(read_example(name), encoding="utf-8")
    return folder


def install_package(
    site: Path, name: str, modules: Mapping[str, str], *, version: str = "1.0", entry_points: Mapping[str, Mapping[str, str]] | None = None
) -> Path:
    """Write a package into a folder of `sys.path`, as installed: module -> source, group -> name -> target."""
    package = name.replace("-", "_")
    (site / package).mkdir(parents=True, exist_ok=True)
    for module, source in {"__init__": "", **modules}.items():
        (site / package / f"{module}.py").write_text(source, encoding="utf-8")
    metadata = site / f"{package}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "top_level.txt").write_text(f"{package}\n")
    groups = {group: "\n".join(f"{key} = {value}" for key, value in entries.items()) for group, entries in (entry_points or {}).items()}
    (metadata / "entry_points.txt").write_text("\n".join(f"[{group}]\n{lines}" for group, lines in groups.items()) + "\n")
    return site
