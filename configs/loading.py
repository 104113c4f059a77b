"""From a name or a path to a PipelineConfig, with errors that say which line, and which key was probably meant."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from indexmill.configs.models import PipelineConfig
from indexmill.storage.errors import InputError

CONFIG_FOLDER = Path(__file__).parent


def list_bundled_pipelines() -> list[str]:
    """The pipelines that come with Indexmill."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def load_config(name_or_path: str, settings: Iterable[str] = ()) -> PipelineConfig:
    """The pipeline called `name_or_path` in configs/, or the YAML file of that path, changed by `dotted.key=value` settings.

    Raises InputError, which names file and line, for whatever is not as the models say.
    """
    path = _locate(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise InputError(
            "the config cannot be read as YAML", where=str(path), got=" ".join(str(problem).split()), next_step="mend the file"
        ) from None
    if not isinstance(values, dict):
        raise InputError(
            "the config is not a mapping",
            where=str(path),
            expected="name:, dataset:, encoder: …",
            got="an empty file" if values is None else f"a {type(values).__name__}",
            next_step="start from one of configs/*.yaml",
        )
    lines = dict(_find_lines(node))
    for setting in settings:
        keys, (_, _, value) = _apply_setting(values, setting), setting.partition("=")
        above = {keys[:size]: "" for size in range(1, len(keys))}
        below = [keys, *(where for where, _ in _find_lines(yaml.compose(value, Loader=yaml.SafeLoader), keys))]
        lines = above | lines | dict.fromkeys(below, f"--set {setting.partition('=')[0]}")
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as problem:
        raise _build_input_error(problem.errors()[0], path, lines) from None


def _locate(name_or_path: str) -> Path:
    named = CONFIG_FOLDER / f"{name_or_path}.yaml"
    if name_or_path in list_bundled_pipelines():
        return named
    path = Path(name_or_path)
    if path.is_file():
        return path
    near = difflib.get_close_matches(name_or_path, list_bundled_pipelines(), n=1)
    raise InputError(
        f"there is no pipeline {name_or_path}",
        expected="the path of a YAML file, or one of: " + ", ".join(list_bundled_pipelines()),
        got=name_or_path,
        next_step=f"did you mean {near[0]}?" if near else "indexmill pipelines lists them",
    )


def _apply_setting(values: dict[str, Any], setting: str) -> tuple[str, ...]:
    """Set one dotted key; the value is read as YAML."""
    key, equals, value = setting.partition("=")
    keys = tuple(key.split("."))
    if not equals or not all(keys):
        raise InputError("a setting cannot be read", where="--set", expected="dotted.key=value", got=setting)
    parent = values
    for name in keys[:-1]:
        if not isinstance(parent.setdefault(name, {}), dict):
            raise InputError("a setting reaches below a plain value", where=f"--set {setting}", got=f"{name} is {parent[name]!r}")
        parent = parent[name]
    try:
        parent[keys[-1]] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError("a setting's value is not YAML", where="--set", expected="dotted.key=value", got=setting) from None
    return keys


def _find_lines(node: yaml.Node | None, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """(key path, "line N") for every key of the document."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*above, str(key.value))
            yield here, f"line {key.start_mark.line + 1}"
            yield from _find_lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            here = (*above, str(number))
            yield here, f"line {value.start_mark.line + 1}"
            yield from _find_lines(value, here)


def _build_input_error(problem: ErrorDetails, path: Path, lines: Mapping[tuple[str, ...], str]) -> InputError:
    written = _get_written_path(problem, lines)
    dotted = ".".join(written) or "the whole"
    line = next((lines[written[:size]] for size in range(len(written), 0, -1) if written[:size] in lines), "")
    where = f"{dotted}, {path}" + (f", {line}" if line else "")
    got = repr(problem["input"])[:200]
    if problem["type"] == "extra_forbidden":
        valid = sorted(_list_valid_keys(written[:-1]))
        near = difflib.get_close_matches(written[-1], valid, n=1, cutoff=0.5)
        return InputError(
            f"unknown key {written[-1]}",
            where=where,
            expected="one of: " + ", ".join(valid),
            got=written[-1],  # and not its value: an unknown key may have been meant for a password
            next_step=f"did you mean {near[0]}?" if near else "remove it",
        )
    if problem["type"] == "missing":
        return InputError(f"the key {dotted} is missing", where=where, next_step=f"add {written[-1]}: to the config")
    expected = problem["msg"].removeprefix("Value error, ")
    return InputError(
        f"{dotted} is not valid", where=where, expected=expected, got=got, next_step="mend it; `indexmill check` shows the whole config"
    )


def _get_written_path(problem: ErrorDetails, lines: Mapping[tuple[str, ...], str]) -> tuple[str, ...]:
    """pydantic's location without what the user did not write: tags of unions stand between the keys."""
    loc = problem["loc"]
    written: tuple[str, ...] = ()
    for part in loc[:-1]:
        if (*written, str(part)) in lines or not any(known[: len(written)] == written and len(known) > len(written) for known in lines):
            written = (*written, str(part))
    said = problem["type"] in ("missing", "extra_forbidden") or (*written, str(loc[-1])) in lines if loc else False
    return (*written, str(loc[-1])) if said else written


def _list_valid_keys(above: tuple[str, ...]) -> set[str]:
    """The keys that may stand below `above`, over all members of a union."""
    annotations: list[Any] = [PipelineConfig]
    for key in above:
        annotations = [inner for annotation in annotations for inner in _find_child_annotations(annotation, key)]
    models = [model for annotation in annotations for model in _find_models(annotation)]
    return {field.alias or name for model in models for name, field in model.model_fields.items()}


def _find_child_annotations(annotation: Any, key: str) -> Iterator[Any]:
    """What a key of this annotation holds: a mapping's values, a sequence's members, or a model's field."""
    if typing.get_origin(annotation) in (dict, tuple):
        inner = typing.get_args(annotation)
        yield inner[1] if typing.get_origin(annotation) is dict else inner[0]
        return
    for model in _find_models(annotation):
        yield from (field.annotation for name, field in model.model_fields.items() if key in (name, field.alias))


def _find_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for member in typing.get_args(annotation):
            yield from _find_models(member)
