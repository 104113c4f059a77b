"""The base class of every config model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ConfigModel(BaseModel):
    """A part of the config: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
