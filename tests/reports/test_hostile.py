"""Strings from data are shown as text everywhere: never as an element, attribute, script or Markdown."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from indexmill.tasks.reports.html import render_html
from indexmill.tasks.reports.markdown import render_markdown
from indexmill.tasks.reports.model import RejectGroup, ReportModel
from tests.reports import report_models

HOSTILE = (
    "</script><script>window.hurt=1</script>",
    "\"><img src=x onerror='window.hurt=1'>",
    "' onmouseover='window.hurt=1",
    "</title></style><svg/onload=alert(1)>",
    "<!-- ]]> --> &lt;b&gt; \u2028 \u2029 \x00 \x1b[31m",
    "{{ 7 * 7 }} {% raw %}",
    "$\\frac{1}{2}$ _under_ __dunder__",
    "javascript:alert(1)",
    "http://evil.example/x.png",
    "\u202egnp.exe",
    "[a](http://evil.example) ![b](http://evil.example/c.png) `code` *em* | # > @all",
)


class Structure(HTMLParser):
    """The tags of a page with their attribute names, its URLs, and the contents of its JSON blocks."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.urls: list[str] = []
        self.json: list[Any] = []
        self._in_json = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.urls += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "srcset", "data", "poster")]
        self._in_json = tag == "script" and ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        if self._in_json:
            self.json.append(json.loads(data))
            self._in_json = False


def replace_strings(value: Any, substitute: Any, key: str = "") -> Any:
    """Replace every string but paths; dictionaries keep their keys."""
    if isinstance(value, dict):
        return {name: replace_strings(entry, substitute, name) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(replace_strings(entry, substitute, key) for entry in value)
    return substitute(value) if isinstance(value, str) and key != "path" else value


def make_hostile(report: ReportModel, strings: tuple[str, ...] = HOSTILE) -> ReportModel:
    """Replace every string from data by one of `strings`; equal strings stay equal."""
    substitutes: dict[str, str] = {}

    def substitute(text: str) -> str:
        # The number keeps different strings different.
        number = len(substitutes)
        return substitutes.setdefault(text, f"{strings[number % len(strings)]} {number:04d}")

    manifest = report.manifest
    training = {**manifest.training, "reason": substitute("reason")}
    search = manifest.search.model_copy(update={"reason": substitute("found")})
    hostile_manifest = manifest.model_copy(
        update={
            "config": {**replace_strings(manifest.config, substitute), "split": {"leaks": "exclude"}},
            "encoder": replace_strings(manifest.encoder, substitute),
            "versions": replace_strings(manifest.versions, substitute),
            "datasets": replace_strings(manifest.datasets, substitute),
            "training": training,
            "search": search,
            "factory": substitute("factory"),
            "fingerprint": substitute("fingerprint"),
            "content": substitute("content"),
        }
    )
    build_metrics = report.build_metrics
    rules = tuple(
        rule.model_copy(update={"rule": substitute(rule.rule), "message": substitute(rule.message)}) for rule in build_metrics.gate
    )
    hostile_metrics = build_metrics.model_copy(
        update={
            "gate": rules,
            "failed_rules": replace_strings(build_metrics.failed_rules, substitute),
            "force_reason": build_metrics.force_reason and substitute("force"),
            "scored_pairs": {substitute(name): pair for name, pair in build_metrics.scored_pairs.items()},
            "stage_seconds": {substitute(name): seconds for name, seconds in build_metrics.stage_seconds.items()},
        }
    )
    rejects = [RejectGroup(substitute(group.reason), group.count, replace_strings(group.examples, substitute)) for group in report.rejects]
    return replace(
        report,
        build_metrics=hostile_metrics,
        manifest=hostile_manifest,
        description=substitute("description"),
        report_data=replace_strings(report.report_data, substitute),
        rejects=rejects,
    )


@pytest.mark.parametrize("kind", ["images", "texts", "force_reason"])
def test_hostile_strings_do_not_change_the_structure_of_a_page(digits: Path, kind: str) -> None:
    """The sequence of tags and attribute names is that of a harmless page."""
    report = report_models.make_texts_report() if kind == "texts" else report_models.make_images_report(digits)
    report = report_models.refuse(report, "because") if kind == "force_reason" else report
    good, bad = (Structure(render_html(make_hostile(report, strings))) for strings in (("harmless",), HOSTILE))
    assert bad.tags == good.tags
    assert [tag for tag, _ in bad.tags].count("script") == 2
    assert all(url.startswith(("data:", "#")) for url in bad.urls)


def test_labels_survive_json_unchanged(digits: Path) -> None:
    """The script reads the very label, and the label does not end the script element."""
    label = "</script><b>&\"'\u2028"
    report = report_models.make_images_report(digits)
    report.report_data["space"] = report_models.make_space([label, "other"])
    blocks = Structure(render_html(report)).json
    assert [block["names"] for block in blocks] == [["</script><b>&\"'", "other"]]


@pytest.mark.parametrize("string", HOSTILE)
def test_hostile_strings_do_not_change_the_structure_of_markdown(string: str) -> None:
    """The tokens are those of a harmless report: no extra link, image, emphasis, code, heading, cell or HTML."""
    report = report_models.refuse(report_models.make_texts_report(), "because")
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")

    def list_token_types(strings: tuple[str, ...]) -> list[str]:
        tokens = parser.parse(render_markdown(make_hostile(report, strings)))
        return [part.type for token in tokens for part in (token, *(token.children or [])) if part.type != "text_special"]

    def drop_texts(types: list[str]) -> list[str]:
        return [name for name in types if name not in ("text", "entity")]

    assert drop_texts(list_token_types((string,))) == drop_texts(list_token_types(("harmless",)))


@pytest.mark.parametrize("start", ["# a", "> a", "- a", "+ a", "1. a", "12) a", "===", "--- a"])
def test_data_at_the_start_of_a_markdown_line_starts_no_block(start: str) -> None:
    """A description that looks like a heading, a quotation or a list stays a paragraph."""
    text = render_markdown(replace(report_models.make_texts_report(), description=start))
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert any(token.type == "inline" and "".join(child.content for child in token.children or []) == start for token in tokens)
    assert [token.type for token in tokens].count("heading_open") == 3
