"""Write a study: study.parquet and study.json for programs, an HTML page and plots for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from indexmill.storage.atomic import Scratch
from indexmill.tasks.studies import plots
from indexmill.tasks.studies.results import StudyRow, write_rows


def write_study_report(scratch: Scratch, folder: Path, about: dict[str, Any], rows: Sequence[StudyRow]) -> list[Path]:
    """Write `study.scan_sql`, three plots as PNG and SVG, `study.html`, and last `study.json`, each of them whole; their paths.

    about: name, created_at, machine, target, for page and JSON. scratch: lies on the file system of `folder`.
    """
    paths = [folder / "study.parquet"]
    with scratch.replace_atomically(paths[0]) as temporary:
        write_rows(temporary, rows)
    with plots.figures(rows) as figures:
        drawn = {name: plots.to_svg(figure) for name, figure in figures.items()}
        for name, figure in figures.items():
            paths += [folder / f"{name}.svg", folder / f"{name}.png"]
            scratch.write_text(paths[-2], drawn[name])
            with scratch.replace_atomically(paths[-1]) as temporary:
                temporary.write_bytes(plots.to_png(figure))
    paths += [folder / "study.html", folder / "study.json"]
    scratch.write_text(paths[-2], _render_page(about, rows, drawn))
    scratch.write_text(paths[-1], json.dumps(about | {"rows": [row.model_dump() for row in rows]}, indent=1) + "\n")
    return paths


def _render_page(about: dict[str, Any], rows: Sequence[StudyRow], drawn: dict[str, str]) -> str:
    """One page that opens from disk with no network. Everything from data is escaped by the template, and in the plots by matplotlib."""
    environment = Environment(
        loader=PackageLoader("indexmill.tasks.studies"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    encoders = []
    for name in dict.fromkeys(row.encoder for row in rows):
        mine = [row for row in rows if row.encoder == name]
        encoders.append({
            "name": name, "dim": mine[0].dim, "database": mine[0].database, "rate": mine[0].encode_items_per_second,
            "remembered": mine[0].encode_rate_from_profile, "best": next((row for row in mine if row.best), None),
        })  # fmt: skip
    return environment.get_template("study.html.j2").render(about=about, rows=rows, encoders=encoders, plots=drawn)
