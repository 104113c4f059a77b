"""Python's own standard library as a text data set: one item a documented module, class or function.

The files are parsed, never imported. key = qualified name, label = module, text = name and docstring.
"""

from __future__ import annotations

import ast
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from indexmill.storage.digests import rows_digest
from indexmill.storage.records import Modality
from indexmill.tasks.sources.listing import Item, Pair

# Test suites, and packages whose docstrings describe a program rather than an interface.
PASSED_OVER = frozenset(
    {"site-packages", "test", "tests", "idlelib", "idle_test", "lib2to3", "turtledemo", "ensurepip", "_vendor", "__phello__"}
)

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class StdlibSource:
    """The docstrings of the Python that runs this."""

    modality: Modality = "text"
    image_root: Path | None = None
    labelled = True

    def __init__(self, library: Path | None = None) -> None:
        self.library = library or Path(sysconfig.get_paths()["stdlib"])

    def revision(self) -> str:
        """Digest of the Python version and of every file's path and size."""
        files = ((path.relative_to(self.library).as_posix(), path.stat().st_size) for path in self._files())
        return rows_digest([(platform.python_implementation(), platform.python_version()), *files])

    def items(self) -> Iterator[Item]:
        """Documented public names, file by file."""
        for path in self._files():
            module = ".".join(path.relative_to(self.library).with_suffix("").parts).removesuffix(".__init__")
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue  # templates and fixtures that are no Python
            seen: set[str] = set()
            for name, doc in _documented(tree, module):
                if name not in seen:  # a name defined twice (by platform, say) is its first definition
                    seen.add(name)
                    yield Item(key=name, label=module, text=f"{name}: {doc}")

    def pairs(self) -> Iterator[Pair]:
        """None: docstrings are not scored."""
        return iter(())

    def _files(self) -> Iterator[Path]:
        for path in sorted(self.library.rglob("*.py")):
            parts = path.relative_to(self.library).parts
            if not PASSED_OVER.intersection(parts) and not any(part.startswith("config-") for part in parts):
                yield path


def _documented(node: Documented, name: str) -> Iterator[tuple[str, str]]:
    if doc := ast.get_docstring(node):
        yield name, doc
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from _documented(child, f"{name}.{child.name}")
