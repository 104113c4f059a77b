"""Find the prompt of each role: what precedes the queries, and what precedes the documents.

Nothing here loads a model: prompts are part of the fingerprint, which is computed from files alone."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexmill.configs.encoders import EncoderConfig, SentenceTransformersEncoderConfig, TextEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.storage.records import Role
from indexmill.tasks.encoding.model_files import find_sentence_transformer_folder

ROLES: tuple[Role, ...] = ("document", "query")
# The names that `encode_query` and `encode_document` of sentence-transformers look for, in this order.
PROMPT_NAMES: dict[Role, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
# Settings of a transformer that differ between the roles.
ROLE_SETTINGS = ("query_length", "document_length", "query_expansion")


@dataclass(frozen=True)
class ModelPrompts:
    """The prompts that a model comes with.

    Attributes:
        by_name: Name -> prompt. As in sentence-transformers, `query` and `document` always exist and are empty by default.
        default: What its plain `encode` would use.
        depends_on_role: Whether it also treats the roles differently in another way, such as by a module for each.
    """

    by_name: dict[str, str]
    default: str
    depends_on_role: bool


def resolve_prompts(config: EncoderConfig) -> dict[Role, str]:
    """Return the prompt of each role; empty strings where there is none.

    Raises:
        InputError: The config names a prompt that the model does not have.
    """
    model_prompts = read_model_prompts(config)
    return {role: _resolve_prompt(config, role, model_prompts) for role in ROLES}


def describe_role(config: EncoderConfig, role: Role) -> dict[str, str]:
    """Return what identifies a role's vectors besides the model's files: `prompt`, and `task` if the model depends on it.

    The default prompt of the model's plain `encode` is not named, because the files determine it. So a model without
    prompts has the same fingerprint for both roles.
    """
    model_prompts = read_model_prompts(config)
    prompt = _resolve_prompt(config, role, model_prompts)
    settings = {} if prompt == model_prompts.default else {"prompt": prompt}
    return settings | ({"task": role} if model_prompts.depends_on_role else {})


def read_model_prompts(config: EncoderConfig) -> ModelPrompts:
    """Read the prompts of a model from its files; none for models of other libraries than sentence-transformers."""
    if not isinstance(config, SentenceTransformersEncoderConfig):
        return ModelPrompts({}, default="", depends_on_role=False)
    folder = find_sentence_transformer_folder(config.model)
    settings = _read_json(folder / "config_sentence_transformers.json", {})
    own_prompts = {name: prompt or "" for name, prompt in (settings.get("prompts") or {}).items()}
    prompts = {"query": "", "document": ""} | own_prompts
    return ModelPrompts(prompts, prompts.get(settings.get("default_prompt_name") or "", ""), _depends_on_role(folder))


def _resolve_prompt(config: EncoderConfig, role: Role, model_prompts: ModelPrompts) -> str:
    if not isinstance(config, TextEncoderConfig):
        return ""
    value, prompts = config.query_prompt if role == "query" else config.document_prompt, model_prompts.by_name
    if value == "auto":
        return next((prompts[name] for name in PROMPT_NAMES[role] if name in prompts), "")
    if value in prompts:
        return prompts[value]
    if re.fullmatch(r"[\w-]+", value):  # glued to the first word of a text, this would be a mistake
        raise InputError(
            "the model has no prompt of this name",
            where=f"encoder.{role}_prompt = {value}",
            expected=f"auto, {', '.join(prompts)}{', ' if prompts else ''}or a literal that ends with a space or a punctuation mark",
            got=value,
            next_step=f"correct encoder.{role}_prompt, or write a literal such as '{value}: '",
        )
    return value


def _depends_on_role(folder: Path) -> bool:
    """Return whether a module routes by role, or a transformer has settings for one of them."""
    modules = _read_json(folder / "modules.json", [])
    if any(str(module.get("type", "")).rpartition(".")[2] in ("Router", "Asym") for module in modules):
        return True
    if any(_read_json(path, {}).get(key) for path in sorted(folder.rglob("sentence_*_config.json")) for key in ROLE_SETTINGS):
        return True
    templates = [*folder.rglob("chat_template.jinja"), *folder.rglob("tokenizer_config.json")]
    return any(re.search(r"\{%[^%]*\btask\b", path.read_text(encoding="utf-8")) for path in sorted(templates))


def _read_json(path: Path, default: Any) -> Any:
    """Read a file of the model; the default if there is none. A damaged one fails when the library loads the model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default
    return content if isinstance(content, type(default)) else default
