"""Turn pydantic's validation errors into one InputError that lists each with its line and the nearest key."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from indexmill.configs.models import PipelineConfig
from indexmill.storage.errors import InputError

KeyPath = tuple[str, ...]

MAX_VALUE_LENGTH = 200
KEYS_HINT = "correct it; docs/config.md describes every key"


def build_config_error(errors: Sequence[ErrorDetails], path: Path, locations: Mapping[KeyPath, str]) -> InputError:
    """Build the InputError for an invalid config.

    The value of an unknown key never appears in it: the key may have been meant for a password.

    Args:
        errors: pydantic's errors.
        path: The config file.
        locations: Key path -> where the key is, as in "line 7" or "--set index.shards"; empty for sections that a
            setting creates.
    """
    located = [(_strip_union_tags(error, locations), error) for error in errors]
    missing = {key_path for key_path, error in located if error["type"] == "missing"}
    unknown = [key_path for key_path, error in located if error["type"] == "extra_forbidden"]
    suggestions = _match_unknown_with_missing(unknown, missing)
    listed = [(key_path, error) for key_path, error in located if key_path not in suggestions.values()]
    file = str(path) if len(listed) == 1 else ""
    described = [_describe_error(error, key_path, file, locations, suggestions.get(key_path)) for key_path, error in listed]
    if len(described) == 1:
        return described[0]
    numbered = [f"  {number}. " + str(error).replace("\n", "\n   ") for number, error in enumerate(described, start=1)]
    message = "\n".join([f"the config has {len(described)} errors", *numbered])
    return InputError(message, where=str(path), next_step="fix them all and run the command again")


def list_valid_keys(loc: tuple[int | str, ...]) -> set[str]:
    """List the keys that a section may have. loc: its key path, with or without the tags of unions."""
    return {field.alias or name for model in _find_section_models(loc) for name, field in model.model_fields.items()}


def _match_unknown_with_missing(unknown: Iterable[KeyPath], missing: set[KeyPath]) -> dict[KeyPath, KeyPath]:
    """Unknown key -> the missing key of the same section that it was probably meant as. No missing key occurs twice."""
    matches: dict[KeyPath, KeyPath] = {}
    for key_path in unknown:
        names = [candidate[-1] for candidate in sorted(missing - set(matches.values())) if candidate[:-1] == key_path[:-1]]
        if nearest := difflib.get_close_matches(key_path[-1], names, n=1):
            matches[key_path] = (*key_path[:-1], nearest[0])
    return matches


def _describe_error(
    error: ErrorDetails, key_path: KeyPath, file: str, locations: Mapping[KeyPath, str], suggestion: KeyPath | None
) -> InputError:
    """Describe one error. suggestion: the missing key that an unknown one was probably meant as."""
    key_path = _find_named_key(error, key_path, locations)
    dotted = ".".join(key_path) or "the config"
    where = _format_where(key_path, file, locations)
    match error["type"]:
        case "extra_forbidden":
            return _describe_unknown_key(error, key_path, where, suggestion)
        case "missing":
            return InputError(f"the key {dotted} is missing", where=where, next_step=f"add {key_path[-1]}: to the config")
        case "union_tag_not_found" | "union_tag_invalid":
            return _describe_union_error(error, key_path, file, locations)
    expected = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    names = re.findall("'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
    nearest = difflib.get_close_matches(str(error["input"]), names, n=1)
    return InputError(
        f"{dotted} is not valid",
        where=where,
        expected=expected,
        got="" if error["type"] == "value_error" and isinstance(error["input"], dict) else _describe_value(error["input"]),
        next_step=f"did you mean {nearest[0]}?" if nearest else KEYS_HINT,
    )


def _find_named_key(error: ErrorDetails, key_path: KeyPath, locations: Mapping[KeyPath, str]) -> KeyPath:
    """Return the only key of the config that a whole section's error names, else the section: its value is not shown, as a URL's."""
    if error["type"] != "value_error":
        return key_path
    named = {tuple(dotted.split(".")) for dotted in re.findall(r"[a-z_]+(?:\.[a-z_]+)+", error["msg"])}
    given = [path for path in named if path in locations and path[: len(key_path)] == key_path]
    return given[0] if len(given) == 1 else key_path


def _format_where(key_path: KeyPath, file: str, locations: Mapping[KeyPath, str]) -> str:
    """Return the dotted key, the file and the nearest location, as in `index.factroy, line 9`."""
    prefixes = [key_path[:size] for size in range(len(key_path), 0, -1)]
    location = next((locations[prefix] for prefix in prefixes if prefix in locations), "")
    return ", ".join(filter(None, (".".join(key_path) or "the config", file, location)))


def _describe_unknown_key(error: ErrorDetails, key_path: KeyPath, where: str, suggestion: KeyPath | None) -> InputError:
    name, valid = key_path[-1], sorted(list_valid_keys(error["loc"][:-1]))
    if suggestion:
        return InputError(
            f"unknown key {name}, and the key {'.'.join(suggestion)} is missing",
            where=where,
            expected=suggestion[-1],
            got=name,
            next_step=f"did you mean {suggestion[-1]}? rename the key",
        )
    nearest = difflib.get_close_matches(name, valid, n=1)
    return InputError(
        f"unknown key {name}",
        where=where,
        expected="one of: " + ", ".join(valid),
        got=name,
        next_step=f"did you mean {nearest[0]}?" if nearest else "remove it",
    )


def _describe_union_error(error: ErrorDetails, key_path: KeyPath, file: str, locations: Mapping[KeyPath, str]) -> InputError:
    """Describe a section whose `source` or `kind` is missing or unknown.

    Its other keys cannot be checked until that is fixed.
    """
    context = error.get("ctx", {})
    discriminator = str(context["discriminator"]).strip("'")
    dotted = ".".join((*key_path, discriminator))
    where = _format_where((*key_path, discriminator), file, locations)
    if error["type"] == "union_tag_not_found":
        keys = [str(key) for key in error["input"]] if isinstance(error["input"], dict) else []
        nearest = difflib.get_close_matches(discriminator, keys, n=1)
        return InputError(
            f"the key {dotted} is missing",
            where=where,
            expected="one of: " + ", ".join(sorted(_list_tags(error["loc"], discriminator))),
            got=f"unknown key {nearest[0]}" if nearest else "",
            next_step=f"did you mean {discriminator}? rename {nearest[0]}" if nearest else f"add {discriminator}: to the section",
        )
    tag = str(context["tag"])
    tags = re.findall("'([^']*)'", str(context["expected_tags"]))
    nearest = difflib.get_close_matches(tag, tags, n=1)
    return InputError(
        f"{dotted} is not valid",
        where=where,
        expected="one of: " + ", ".join(tags),
        got=_describe_value(tag),
        next_step=f"did you mean {nearest[0]}?" if nearest else KEYS_HINT,
    )


def _describe_value(value: object) -> str:
    """Return the repr of a plain value. Mappings, and lists that hold any, may hold unknown keys and are only named."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        return f"a list of {len(value)} entries"
    return repr(value)[:MAX_VALUE_LENGTH]


def _strip_union_tags(error: ErrorDetails, locations: Mapping[KeyPath, str]) -> KeyPath:
    """Return the key path as the user wrote it. pydantic puts the tags of unions between the keys."""
    parts = [str(part) for part in error["loc"]]
    written: KeyPath = ()
    for part in parts[:-1]:
        has_children = any(path[: len(written)] == written and len(path) > len(written) for path in locations)
        if (*written, part) in locations or not has_children:
            written = (*written, part)
    if parts and (error["type"] in ("missing", "extra_forbidden") or (*written, parts[-1]) in locations):
        return (*written, parts[-1])
    return written


def _list_tags(loc: tuple[int | str, ...], discriminator: str) -> set[str]:
    """List the values that choose a member of the union at a location of pydantic's."""
    return {tag for model in _find_section_models(loc) for tag in typing.get_args(model.model_fields[discriminator].annotation)}


def _find_section_models(loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    annotations: list[Any] = [PipelineConfig]
    for part in map(str, loc):
        children = [child for annotation in annotations for child in _find_child_annotations(annotation, part)]
        tagged = [model for annotation in annotations for model in _find_models(annotation) if _has_tag(model, part)]
        annotations = children or tagged or annotations  # a part that is neither names a member of a union without a tag of its own
    return [model for annotation in annotations for model in _find_models(annotation)]


def _has_tag(model: type[BaseModel], tag: str) -> bool:
    """Whether `tag` chooses this member of a union: one of its keys can only have such values."""
    return any(field.is_required() and tag in typing.get_args(field.annotation) for field in model.model_fields.values())


def _find_child_annotations(annotation: Any, key: str) -> Iterator[Any]:
    """Yield the annotations of what `key` holds: a mapping's value, a sequence's entry, or a model's field."""
    if typing.get_origin(annotation) in (dict, tuple):
        arguments = typing.get_args(annotation)
        yield arguments[1] if typing.get_origin(annotation) is dict else arguments[0]
        return
    for model in _find_models(annotation):
        yield from (field.annotation for name, field in model.model_fields.items() if key in (name, field.alias))


def _find_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for member in typing.get_args(annotation):
            yield from _find_models(member)
