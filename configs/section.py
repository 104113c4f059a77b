"""What every part of a config is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the config: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
