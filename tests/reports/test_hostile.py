"""Strings from data are text, wherever they stand: never an element, an attribute, a script or Markdown."""

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
from tests.reports import made

HOSTILE = (
    "</script><script>window.hurt=1</script>", "\"><img src=x onerror='window.hurt=1'>", "' onmouseover='window.hurt=1",
    "</title></style><svg/onload=alert(1)>",
    "<!-- ]]> --> &lt;b&gt; \u2028 \u2029 \x00 \x1b[31m", "{{ 7 * 7 }} {% raw %}", "$\\frac{1}{2}$ _under_ __dunder__",
    "javascript:alert(1)",
    "http://evil.example/x.png", "\u202egnp.exe", "[a](http://evil.example) ![b](http://evil.example/c.png) `code` *em* | # > @all",
)  # fmt: skip


class Structure(HTMLParser):
    """The tags of a page with the names of their attributes, in order; the addresses; what the JSON blocks hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: list[str] = []
        self.json: list[Any] = []
        self._in_json = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "srcset", "data", "poster")
        ]
        self._in_json = tag == "script" and ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        if self._in_json:
            self.json.append(json.loads(data))
            self._in_json = False


def spoiled(value: Any, say: Any, key: str = "") -> Any:
    """The value with every string in it but paths exchanged; dictionaries keep their keys."""
    if isinstance(value, dict):
        return {name: spoiled(one, say, name) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(spoiled(one, say, key) for one in value)
    return say(value) if isinstance(value, str) and key != "path" else value


def hostile(contents: ReportModel, strings: tuple[str, ...] = HOSTILE) -> ReportModel:
    """Every string of data exchanged for one of `strings`, each original for one and the same."""
    known: dict[str, str] = {}

    def say(text: str) -> str:
        # Kept apart by a number, so that equal stays equal and different different.
        return known.setdefault(text, f"{strings[len(known) % len(strings)]} {len(known):04d}")

    manifest = contents.manifest
    training = {**manifest.training, "reason": say("reason")}
    search = manifest.search.model_copy(update={"reason": say("found")})
    spoiled_manifest = manifest.model_copy(
        update={"config": {**spoiled(manifest.config, say), "split": {"leaks": "exclude"}}, "encoder": spoiled(manifest.encoder, say),
                "versions": spoiled(manifest.versions, say), "datasets": spoiled(manifest.datasets, say),
                "training": training, "search": search,
                "factory": say("factory"), "fingerprint": say("fingerprint"), "content": say("content")}
    )  # fmt: skip
    build_metrics = contents.build_metrics
    rules = tuple(rule.model_copy(update={"rule": say(rule.rule), "message": say(rule.message)}) for rule in build_metrics.gate)
    spoiled_figures = build_metrics.model_copy(
        update={"gate": rules, "failed_rules": spoiled(build_metrics.failed_rules, say), "force_reason": build_metrics.force_reason and say(build_metrics.force_reason),
                "scored_pairs": {say(name): pair for name, pair in build_metrics.scored_pairs.items()},
                "stage_seconds": {say(name): one for name, one in build_metrics.stage_seconds.items()}}
    )  # fmt: skip
    rejects = [RejectGroup(say(one.reason), one.count, spoiled(one.examples, say)) for one in contents.rejects]
    return replace(
        contents,
        build_metrics=spoiled_figures,
        manifest=spoiled_manifest,
        description=say("description"),
        report_data=spoiled(contents.report_data, say),
        rejects=rejects,
    )


@pytest.mark.parametrize("kind", ["images", "texts", "force_reason"])
def test_a_page_of_hostile_strings_has_the_elements_of_a_harmless_one(digits: Path, kind: str) -> None:
    """The tags and the names of their attributes are the same, one by one, whatever the strings say."""
    contents = made.of_texts() if kind == "texts" else made.of_images(digits)
    contents = made.refused(contents, "because") if kind == "force_reason" else contents
    good, bad = (Structure(render_html(hostile(contents, strings))) for strings in (("harmless",), HOSTILE))
    assert bad.tags == good.tags
    assert [tag for tag, _ in bad.tags].count("script") == 2
    assert all(address.startswith(("data:", "#")) for address in bad.addresses)


def test_labels_come_through_json_as_they_are(digits: Path) -> None:
    """What the script reads for a legend is the very label, and ends no script element early."""
    label = "</script><b>&\"'\u2028"
    contents = made.of_images(digits)
    contents.report_data["space"] = made.space([label, "other"])
    found = Structure(render_html(contents)).json
    assert [one["names"] for one in found] == [["</script><b>&\"'", "other"]]


@pytest.mark.parametrize("string", HOSTILE)
def test_markdown_of_hostile_strings_has_the_tokens_of_a_harmless_one(string: str) -> None:
    """No link, image, emphasis, code, heading, cell or HTML more than with harmless strings in their places."""
    contents = made.refused(made.of_texts(), "because")
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")

    def kinds(strings: tuple[str, ...]) -> list[str]:
        tokens = parser.parse(render_markdown(hostile(contents, strings)))
        return [one.type for token in tokens for one in (token, *(token.children or [])) if one.type != "text_special"]

    def without_texts(found: list[str]) -> list[str]:
        return [one for one in found if one not in ("text", "entity")]

    assert without_texts(kinds((string,))) == without_texts(kinds(("harmless",)))


@pytest.mark.parametrize("start", ["# a", "> a", "- a", "+ a", "1. a", "12) a", "===", "--- a"])
def test_markdown_lines_that_begin_with_data_begin_nothing(start: str) -> None:
    """A description that looks like a heading, a quotation or a list is a paragraph."""
    text = render_markdown(replace(made.of_texts(), description=start))
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    assert any(token.type == "inline" and "".join(one.content for one in token.children or []) == start for token in tokens)
    assert [token.type for token in tokens].count("heading_open") == 3
