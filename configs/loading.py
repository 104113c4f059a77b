"""Load a pipeline config by name or path."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from indexmill.configs.models import PipelineConfig
from indexmill.configs.validation_errors import KeyPath, build_config_error, list_valid_keys
from indexmill.storage.errors import InputError

CONFIG_FOLDER = Path(__file__).parent


def list_bundled_pipelines() -> list[str]:
    """List the names of the pipelines that come with Indexmill."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def load_config(name_or_path: str, settings: Iterable[str] = ()) -> PipelineConfig:
    """Load a pipeline config and apply settings to it.

    Args:
        name_or_path: A bundled pipeline, or the path of a YAML file.
        settings: Changes in the form `dotted.key=value`; values are YAML.

    Raises:
        InputError: when the file or a setting cannot be read, or the config is invalid. It lists every error with its
            line.
    """
    path = _find_config_file(name_or_path)
    values, locations = _read_config_file(path)
    for setting in settings:
        keys = _apply_setting(values, setting)
        locations |= _locate_setting(keys, setting, locations)
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as error:
        raise build_config_error(error.errors(), path, locations) from None


def _find_config_file(name_or_path: str) -> Path:
    bundled = list_bundled_pipelines()
    if name_or_path in bundled:
        return CONFIG_FOLDER / f"{name_or_path}.yaml"
    if os.path.isfile(name_or_path):  # noqa: PTH113 (pathlib's raises for a name that is too long)
        return Path(name_or_path)
    nearest = difflib.get_close_matches(name_or_path, bundled, n=1)
    raise InputError(
        f"there is no pipeline {name_or_path}",
        expected="the path of a YAML file, or one of: " + ", ".join(bundled),
        got=name_or_path,
        next_step=f"did you mean {nearest[0]}?" if nearest else "run `indexmill pipelines` to list them",
    )


def _read_config_file(path: Path) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Return the config's values, and where each key is."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = _join_surrogates(yaml.safe_load(text))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            "the config is not readable YAML", where=str(path), got=_describe_read_error(error), next_step="fix the file"
        ) from None
    if not isinstance(values, dict):
        raise InputError(
            "the config is not a mapping",
            where=str(path),
            expected="name:, dataset:, encoder: …",
            got="an empty file" if values is None else f"a {type(values).__name__}",
            next_step="start from one of configs/*.yaml",
        )
    return values, dict(_iter_lines(node))


def _join_surrogates(value: Any) -> Any:
    r"""Join the halves of characters that JSON escapes in two, as `\ud83d\ude00`: a config may be JSON, and YAML leaves them apart.

    Raises:
        UnicodeDecodeError: A half is alone.
    """
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    if isinstance(value, dict):
        return {_join_surrogates(key): _join_surrogates(inner) for key, inner in value.items()}
    return [_join_surrogates(inner) for inner in value] if isinstance(value, list) else value


def _describe_read_error(error: Exception) -> str:
    """Describe an error without the line of the file, which may hold a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


def _iter_lines(node: yaml.Node | None, parent: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield (key path, "line N") for every key and list entry of the document."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*parent, str(key.value))
            yield path, f"line {key.start_mark.line + 1}"
            yield from _iter_lines(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            path = (*parent, str(number))
            yield path, f"line {value.start_mark.line + 1}"
            yield from _iter_lines(value, path)


def _apply_setting(values: dict[str, Any], setting: str) -> KeyPath:
    """Set one dotted key in `values` and return its key path."""
    key, equals, value = setting.partition("=")
    keys = tuple(key.split("."))
    if not equals or not all(keys):
        raise InputError("a setting cannot be read", where="--set", expected="dotted.key=value", got=setting)
    section = values
    for depth, name in enumerate(keys[:-1]):
        if not isinstance(section.setdefault(name, {}), dict):
            value_text = repr(section[name]) if name in list_valid_keys(keys[:depth]) else "a plain value"
            raise InputError("a setting names a key below a plain value", where=f"--set {key}", got=f"{name} is {value_text}")
        section = section[name]
    try:
        section[keys[-1]] = _join_surrogates(yaml.safe_load(value))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError("a setting's value is not YAML", where=f"--set {key}", expected="dotted.key=value, with a YAML value") from None
    return keys


def _locate_setting(keys: KeyPath, setting: str, locations: dict[KeyPath, str]) -> dict[KeyPath, str]:
    """Return the locations of the keys that a setting sets; sections that it creates have none."""
    key, _, value = setting.partition("=")
    nested = [path for path, _ in _iter_lines(yaml.compose(value, Loader=yaml.SafeLoader), keys)]
    created = {keys[:size]: "" for size in range(1, len(keys)) if keys[:size] not in locations}
    return created | dict.fromkeys([keys, *nested], f"--set {key}")
