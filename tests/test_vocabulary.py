"""One vocabulary: the glossary's terms, and none of the words that they replaced."""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
GLOSSARY = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8")

# Banned in code, comments, messages, templates and documents, as whole words.
WORDS = {
    "anew": "again, or rebuild",
    "doubt": "staleness check",
    "doomed": "expired",
    "heed": "check, follow",
    "heeds": "checks, follows",
    "laid_out": "vector_memmap",
    "mend": "fix, repair",
    "mended": "fixed, repaired",
    "mostly_dead": "underfilled",
    "openings": "image checks",
    "passed over": "ignored, skipped",
    "patiently": "with retries",
    "reckoned": "computed",
    "surely": "with 95 % confidence",
    "thrice": "three times",
    "told": "reported, printed, or the name of the value",
    "unbelievable": "invalid",
    "neighbour": "neighbor: FAISS's and scikit-learn's spelling",
    "neighbours": "neighbors",
    "colour": "color",
    "colours": "colors",
    "labelled": "labeled",
}

# Banned as Python names in shipping code: words that say how a value feels, and not what it is.
NAMES = {
    "asked": "queries",
    "dial": "search_param",
    "doubt": "staleness_check",
    "experience": "device_profile",
    "held": "indexed, or what is held",
    "larger": "higher_is_better",
    "patience": "retry policy",
    "place": "root, path or position",
    "places": "k, ranks or positions",
    "says": "message",
    "told": "the name of the value",
    "truth": "ground_truth",
}

TEXT = {".py", ".md", ".yaml", ".toml", ".j2", ".html", ".js", ".css", ".txt", ""}
# The changelog and the decisions name what was renamed; this file names all of it.
EXEMPT = {"CHANGELOG.md", "docs/decisions.md", "tests/test_vocabulary.py"}


def list_files(*suffixes: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    paths = [REPOSITORY / name for name in listed.stdout.splitlines() if name not in EXEMPT]
    return [path for path in paths if path.suffix in suffixes and path.is_file() and not path.is_symlink()]


@pytest.mark.parametrize("word", sorted(WORDS))
def test_no_file_uses_a_word_that_the_glossary_replaced(word: str) -> None:
    """Whole words, in any case; what to write instead stands in WORDS."""
    pattern = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])", re.I)
    uses = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:120]}"
        for path in list_files(*TEXT)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not uses, f"write instead: {WORDS[word]}"


def test_no_name_in_the_code_is_one_that_says_nothing() -> None:
    """Functions, parameters, variables and attributes of the shipped packages."""
    uses = [
        f"{path.relative_to(REPOSITORY)}:{token.start[0]}: {token.string} -> {NAMES[token.string]}"
        for path in list_files(".py")
        if path.relative_to(REPOSITORY).parts[0] in {"indexmill", "flows", "tasks", "configs", "storage", "serve"}
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.NAME and token.string in NAMES
    ]
    assert not uses


def test_every_term_has_one_entry() -> None:
    """A glossary with two meanings for a word is none."""
    terms = [term.strip() for row in re.findall(r"^\| ([^|]+) \|", GLOSSARY, re.M) for term in row.split(",")]
    terms = [term for term in terms if term not in {"term", "---"}]
    assert len(terms) > 50
    assert sorted(terms) == sorted(set(terms))
