"""The rows of a source of one's own (`indexmill.tasks.extensions.protocols.PythonSource`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from indexmill.configs.datasets import PythonDatasetConfig
from indexmill.storage.digests import json_digest, rows_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality
from indexmill.tasks.extensions.loading import call_factory, load_class_factory, translate_failures
from indexmill.tasks.extensions.targets import Target, find_target
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.image_files import get_size_and_mtime, resolve_image_path
from indexmill.tasks.sources.text_lines import find_invalid_text

METHODS = ("compute_version", "iterate_batches")
COLUMNS: dict[Modality, tuple[str, ...]] = {
    "text": ("key", "text", "label", "split"),
    "image": ("key", "path", "caption", "label", "split"),
}


class PythonDataSource:
    """The items that a source of one's own lists.

    A row with a value that is no text is listed for validation to reject. A row with a column that there is not is an error: every
    row of the source would have it.

    Args:
        config: The data set.

    Raises:
        InputError: The target does not fit the protocol, or raised an error.
    """

    modality: Modality
    image_root: Path | None

    def __init__(self, config: PythonDatasetConfig) -> None:
        self._target, factory = load_source_factory(config)
        self._source = call_factory(self._target, factory, config.options, {}, "dataset.options")
        _check_attributes(self._source, self._target)
        self.modality, self.labeled = self._source.modality, self._source.labeled
        self.image_root = _resolve_image_root(getattr(self._source, "image_root", None), self._target) if self.modality == "image" else None

    def compute_revision(self) -> str:
        """Return a digest of the package's version and the source's, or of all rows and the files that they name."""
        with translate_failures(self._target):
            source_version = self._source.compute_version()
        if source_version is None:
            rows = ((item.key, item.label, item.text, item.path, item.size, item.mtime_ns, item.split, item.fault) for item in self.items())
            source_version = rows_digest(rows)
        elif not isinstance(source_version, str):
            raise _build_error(self._target, "compute_version returned something else", "a text, or None", source_version)
        return json_digest([self._target.versions, source_version])

    def items(self) -> Iterator[Item]:
        """Yield the rows as items."""
        return (self._make_item(number, row) for number, row in enumerate(self._iterate_rows()))

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield nothing: the rows are not scored."""
        return iter(())

    def _iterate_rows(self) -> Iterator[Any]:
        with translate_failures(self._target):
            for batch in self._source.iterate_batches():
                if isinstance(batch, Mapping | str) or (not isinstance(batch, Iterable) and not hasattr(batch, "to_pylist")):
                    raise _build_error(self._target, "a batch is no list of rows", "a list of mappings, or an Arrow record batch", batch)
                yield from batch.to_pylist() if hasattr(batch, "to_pylist") else batch

    def _make_item(self, number: int, row: Any) -> Item:
        columns = COLUMNS[self.modality]
        if not isinstance(row, Mapping) or "key" not in row or not set(row) <= set(columns):
            expected = f"a mapping with key, and any of {', '.join(columns[1:])}"
            raise _build_error(self._target, "a row does not have the columns of its modality", expected, row)
        fault = next((message for name in columns if (message := _find_fault(name, row.get(name)))), None)
        if fault is not None:
            return Item(key=f"row {number}" if _find_fault("key", row["key"]) else _to_text(row["key"]) or "", fault=fault)
        key, label, split = (_to_text(row.get(name)) for name in ("key", "label", "split"))
        if self.image_root is None:
            return Item(key=key or "", label=label, text=row.get("text") or "", split=split)
        path = resolve_image_path(self.image_root, self.image_root, row.get("path"))
        size, mtime_ns = get_size_and_mtime(self.image_root / path) if path else (None, None)
        return Item(key=key or "", label=label, text=row.get("caption"), path=path, size=size, mtime_ns=mtime_ns, split=split)


def load_source_factory(config: PythonDatasetConfig) -> tuple[Target, Callable[..., Any]]:
    """Import the target, and check it against the protocol before it is called."""
    target = find_target(config.target, group="indexmill.sources", key="dataset.target")
    return target, load_class_factory(target, METHODS, "source")


def _check_attributes(source: Any, target: Target) -> None:
    if missing := [name for name in METHODS if not callable(getattr(source, name, None))]:
        raise _build_error(target, "the target made an object that is no source", f"the methods {', '.join(missing)}", source)
    if getattr(source, "modality", None) not in COLUMNS:
        raise _build_error(
            target, "the source has no modality", "an attribute `modality`: text or image", getattr(source, "modality", None)
        )
    if not isinstance(getattr(source, "labeled", None), bool):
        raise _build_error(target, "the source does not say whether its rows are labeled", "an attribute `labeled`: True or False", None)


def _resolve_image_root(image_root: Any, target: Target) -> Path:
    if not isinstance(image_root, str | Path) or not Path(image_root).expanduser().is_dir():
        raise _build_error(target, "the source has no folder of images", "an attribute `image_root`: an existing folder", image_root)
    return Path(image_root).expanduser().resolve()


def _find_fault(name: str, value: Any) -> str | None:
    """Return why a value cannot be read; None if it can."""
    if value is None or (name in ("key", "label") and isinstance(value, Integral) and not isinstance(value, bool)):
        return None
    if not isinstance(value, str):
        return f"{name} is no text: an object of class {type(value).__name__}"
    return f"{name}: {invalid}" if (invalid := find_invalid_text(value)) else None


def _to_text(value: str | Integral | None) -> str | None:
    return None if value is None else str(value)


def _build_error(target: Target, what: str, expected: str, got: object) -> InputError:
    shown = got if isinstance(got, Mapping | Sequence | str | type(None)) else f"an object of class {type(got).__name__}"
    return InputError(
        what,
        where=target.location,
        expected=expected,
        got=" ".join(str(shown).split())[:200],
        next_step="correct the source (docs/sources.md)",
    )
