"""Names of extensions: where a config leads into a Python package of its user's own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

TargetName = Annotated[str, Field(pattern=r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[A-Za-z0-9][\w.-]*)$")]
