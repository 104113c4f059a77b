"""docs/config.md: every key of a pipeline with its type, default and meaning, generated from the models."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, JsonValue
from pydantic.fields import FieldInfo

from indexmill.configs.models import PipelineConfig

HEADER = """# Config keys

Generated from the code by `make docs`. [Pipelines](pipelines.md) explains the sections.
`indexmill check CONFIG` prints a config with every default.
"""
TAGS = ("source", "kind")
TYPE_NAMES: dict[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    ByteSize: "size, such as 2GB",
    type(None): "null",
    JsonValue: "any value",
}


def render_reference() -> str:
    """The Markdown page."""
    described: set[type[BaseModel]] = set()
    parts = [HEADER, *_render_section("pipeline", PipelineConfig, described)]
    for name, field in PipelineConfig.model_fields.items():
        section = field.alias or name
        for model in _find_models(field.annotation):
            tag = _get_tag(model)
            parts += _render_section(f"{section}, {tag[0]}: {tag[1]}" if tag else section, model, described)
    return "\n".join(parts).rstrip() + "\n"


def _render_section(title: str, model: type[BaseModel], described: set[type[BaseModel]]) -> Iterator[str]:
    """One section: its meaning, a table of its keys, and the sections inside it, unless they were described before."""
    described.add(model)
    yield f"\n## {title}\n"
    yield " ".join((inspect.getdoc(model) or "").split()) + "\n"
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    nested: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        inner = [inner_model for inner_model in _find_models(field.annotation) if _get_tag(inner_model) is None]
        if model is not PipelineConfig:
            section = title.split(",")[0]  # a section inside several sources is that of all of them
            nested += [(f"{section}.{key}", inner_model) for inner_model in inner]
        yield f"| `{key}` | {_describe_type(field.annotation)} | {_describe_default(field)} | {_describe_meaning(field, model, name)} |"
    for inner_title, inner_model in nested:
        if inner_model not in described:
            yield from _render_section(inner_title, inner_model, described)


def _describe_meaning(field: FieldInfo, model: type[BaseModel], name: str) -> str:
    """The field's description; for a section where it is described, and for the key that selects a model what it selects."""
    if field.description is not None:
        return " ".join(field.description.split()).replace("|", "\\|")
    if _get_tag(model) and name in TAGS:
        return "selects this section"
    if any(_find_models(field.annotation)):
        return "see below"
    raise ValueError(f"{model.__name__}.{name} has no description")


def _describe_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return ""
    if isinstance(default, tuple):
        return "`[" + ", ".join(map(str, default)) + "]`"
    if default is None or isinstance(default, bool):
        return f"`{str(default).lower() if default is not None else 'null'}`"
    return f"`{default}`" if default != "" else '`""`'


def _describe_type(annotation: Any) -> str:
    """An annotation in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _describe_type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        if all(_find_model(argument) for argument in arguments):
            return "section"
        return " or ".join(dict.fromkeys(_describe_type(argument) for argument in arguments))
    if origin is tuple:
        return f"list of {_describe_type(arguments[0])}"
    if origin is dict:
        return f"mapping of {_describe_type(arguments[0])} to {_describe_type(arguments[1])}"
    return "section" if _find_model(annotation) else TYPE_NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _find_model(annotation: Any) -> type[BaseModel] | None:
    if typing.get_origin(annotation) is Annotated:
        return _find_model(typing.get_args(annotation)[0])
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _find_models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation, in their order."""
    if model := _find_model(annotation):
        yield model
    elif typing.get_origin(annotation) is not Literal:
        for argument in typing.get_args(annotation):
            yield from _find_models(argument)


def _get_tag(model: type[BaseModel]) -> tuple[str, str] | None:
    """The key and value that select this model in a union: `source: folder`, `kind: timm`."""
    for key in TAGS:
        field = model.model_fields.get(key)
        if field is not None and typing.get_origin(field.annotation) is Literal:
            return key, ", ".join(map(str, typing.get_args(field.annotation)))
    return None


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render_reference(), encoding="utf-8")
