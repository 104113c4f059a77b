"""The docstrings of Python's standard library, one item per documented module, class or function.

Files are parsed, never imported. The key is the qualified name, the label the module, the text the name and the first
paragraph of the docstring: what people search for, and a fifth of the time to encode.
"""

from __future__ import annotations

import ast
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from indexmill.storage.digests import rows_digest
from indexmill.storage.records import Modality
from indexmill.tasks.sources.base import Item, ScoredPair

# Test suites, and packages whose docstrings describe a program rather than an API.
EXCLUDED_FOLDERS = frozenset(
    {"site-packages", "test", "tests", "idlelib", "idle_test", "lib2to3", "turtledemo", "ensurepip", "_vendor", "__phello__"}
)

DocumentedNode = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class StdlibSource:
    """The docstrings of the running Python's standard library, or of the modules in another folder."""

    modality: Modality = "text"
    image_root: Path | None = None
    labeled = True

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(sysconfig.get_paths()["stdlib"])

    def compute_revision(self) -> str:
        """Return a digest of the Python version, of what is read, and of every file's path and size."""
        files = ((path.relative_to(self._folder).as_posix(), path.stat().st_size) for path in self._iterate_files())
        return rows_digest([(platform.python_implementation(), platform.python_version(), "first paragraph"), *files])

    def items(self) -> Iterator[Item]:
        """Yield the documented public names, file by file."""
        for path in self._iterate_files():
            module = ".".join(path.relative_to(self._folder).with_suffix("").parts).removesuffix(".__init__")
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue  # templates and fixtures that are not valid Python
            seen: set[str] = set()
            for name, doc in _iterate_docstrings(tree, module):
                if name not in seen:  # of a name defined twice (per platform, say), the first definition counts
                    seen.add(name)
                    yield Item(key=name, label=module, text=f"{name}: {_get_first_paragraph(doc)}")

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield nothing: docstrings are not scored."""
        return iter(())

    def _iterate_files(self) -> Iterator[Path]:
        for path in sorted(self._folder.rglob("*.py")):
            parts = path.relative_to(self._folder).parts
            if not EXCLUDED_FOLDERS.intersection(parts) and not any(part.startswith("config-") for part in parts):
                yield path


def _get_first_paragraph(doc: str) -> str:
    return doc.partition("\n\n")[0]


def _iterate_docstrings(node: DocumentedNode, name: str) -> Iterator[tuple[str, str]]:
    if doc := ast.get_docstring(node):
        yield name, doc
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from _iterate_docstrings(child, f"{name}.{child.name}")
