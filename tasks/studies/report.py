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


def write_study_report(scratch: Scratch, folder: Path, study_info: dict[str, Any], rows: Sequence[StudyRow]) -> list[Path]:
    """Write `study.parquet`, three plots as PNG and SVG, `study.html`, and last `study.json`, each atomically.

    Args:
        scratch: Temporary files on the file system of `folder`.
        folder: Where the files go.
        study_info: name, created_at, machine, target; for the page and the JSON.
        rows: The rows of all encoders.

    Returns:
        The paths of the files.
    """
    paths = [folder / "study.parquet"]
    with scratch.replace_atomically(paths[0]) as temporary:
        write_rows(temporary, rows)
    with plots.open_figures(rows) as figures:
        svg_plots = {name: plots.to_svg(figure) for name, figure in figures.items()}
        for name, figure in figures.items():
            paths += [folder / f"{name}.svg", folder / f"{name}.png"]
            scratch.write_text(paths[-2], svg_plots[name])
            with scratch.replace_atomically(paths[-1]) as temporary:
                temporary.write_bytes(plots.to_png(figure))
    paths += [folder / "study.html", folder / "study.json"]
    scratch.write_text(paths[-2], _render_page(study_info, rows, svg_plots))
    scratch.write_text(paths[-1], json.dumps(study_info | {"rows": [row.model_dump() for row in rows]}, indent=1) + "\n")
    return paths


def _render_page(study_info: dict[str, Any], rows: Sequence[StudyRow], svg_plots: dict[str, str]) -> str:
    """Render one self-contained page. The template escapes everything from data; in the plots, matplotlib does."""
    environment = Environment(
        loader=PackageLoader("indexmill.tasks.studies"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    encoders = []
    for name in dict.fromkeys(row.encoder for row in rows):
        encoder_rows = [row for row in rows if row.encoder == name]
        encoders.append({"name": name, "first": encoder_rows[0], "best": next((row for row in encoder_rows if row.best), None)})
    template = environment.get_template("study.html.j2")
    return template.render(study_info=study_info, rows=rows, encoders=encoders, svg_plots=svg_plots)
