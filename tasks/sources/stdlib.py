"""The docstrings of Python's standard library, one item per documented module, class or function.

Files are parsed, never imported. The key is the qualified name, the label the module, the text the name and docstring."""

from __future__ import annotations

import ast
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from indexmill.storage.digests import rows_digest
from indexmill.storage.records import Modality
from indexmill.tasks.sources.base import Item, ScoredPair

# Test suites, and packages whose docstrings describe a program rather than an interface.
EXCLUDED_FOLDERS = frozenset(
    {"site-packages", "test", "tests", "idlelib", "idle_test", "lib2to3", "turtledemo", "ensurepip", "_vendor", "__phello__"}
)

DocumentedNode = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class StdlibSource:
    """The docstrings of the Python that runs this."""

    modality: Modality = "text"
    image_root: Path | None = None
    labeled = True

    def __init__(self, library: Path | None = None) -> None:
        self.library = library or Path(sysconfig.get_paths()["stdlib"])

    def compute_revision(self) -> str:
        """Digest of the Python version and of every file's path and size."""
        files = ((path.relative_to(self.library).as_posix(), path.stat().st_size) for path in self._iterate_files())
        return rows_digest([(platform.python_implementation(), platform.python_version()), *files])

    def items(self) -> Iterator[Item]:
        """Documented public names, file by file."""
        for path in self._iterate_files():
            module = ".".join(path.relative_to(self.library).with_suffix("").parts).removesuffix(".__init__")
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue  # templates and fixtures that are no Python
            seen: set[str] = set()
            for name, doc in _iterate_docstrings(tree, module):
                if name not in seen:  # a name defined twice (by platform, say) is its first definition
                    seen.add(name)
                    yield Item(key=name, label=module, text=f"{name}: {doc}")

    def pairs(self) -> Iterator[ScoredPair]:
        """None: docstrings are not scored."""
        return iter(())

    def _iterate_files(self) -> Iterator[Path]:
        for path in sorted(self.library.rglob("*.py")):
            parts = path.relative_to(self.library).parts
            if not EXCLUDED_FOLDERS.intersection(parts) and not any(part.startswith("config-") for part in parts):
                yield path


def _iterate_docstrings(node: DocumentedNode, name: str) -> Iterator[tuple[str, str]]:
    if doc := ast.get_docstring(node):
        yield name, doc
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from _iterate_docstrings(child, f"{name}.{child.name}")
