"""The standard library as a data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexmill.tasks.sources.stdlib import StdlibSource

MODULE = '''"""About the module."""

class Public:
    """A class."""

    def method(self):
        """A method.

        Its details.
        """

    def _private(self):
        """Not listed."""

    def undocumented(self): ...

async def run():
    """Runs."""

def run():
    """Defined again."""
'''


def test_documented_public_names_are_items(tmp_path: Path) -> None:
    """Key = qualified name, label = module, text = name and first paragraph of the docstring; the first definition of a name counts."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text('"""A package."""')
    (tmp_path / "pack" / "mod.py").write_text(MODULE)
    (tmp_path / "pack" / "broken.py").write_text("def (:")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_mod.py").write_text('"""A test."""')
    items = {item.key: (item.label, item.text) for item in StdlibSource(tmp_path).items()}
    assert items == {
        "pack": ("pack", "pack: A package."),
        "pack.mod": ("pack.mod", "pack.mod: About the module."),
        "pack.mod.Public": ("pack.mod", "pack.mod.Public: A class."),
        "pack.mod.Public.method": ("pack.mod", "pack.mod.Public.method: A method."),
        "pack.mod.run": ("pack.mod", "pack.mod.run: Runs."),
    }


@pytest.mark.slow
def test_the_running_python_has_several_thousand_items() -> None:
    """Every key occurs once, and strptime is among them."""
    keys = [item.key for item in StdlibSource().items()]
    assert 3_000 < len(keys) < 20_000
    assert len(keys) == len(set(keys))
    assert "datetime.datetime.strptime" in keys


def test_the_revision_changes_with_a_file(tmp_path: Path) -> None:
    """It stays the same while the files do."""
    (tmp_path / "a.py").write_text('"""A."""')
    before = StdlibSource(tmp_path).compute_revision()
    assert StdlibSource(tmp_path).compute_revision() == before
    (tmp_path / "b.py").write_text('"""B."""')
    assert StdlibSource(tmp_path).compute_revision() != before
