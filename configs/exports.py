"""Where published snapshots are exported to, and in which format."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from indexmill.storage.records import FrozenModel

ExportFormat = Literal["parquet", "npy", "faiss", "hnswlib", "lancedb", "pgvector", "qdrant"]

OBJECT_URL = re.compile(r"(s3|gs|az)://.+")
POSTGRES_URL = re.compile(r"postgres(ql)?://.+")
HTTP_URL = re.compile(r"https?://.+")
# A password in the user part, or among the parameters of a PostgreSQL URL.
PASSWORD_IN_URL = re.compile(r"://[^/@]*:[^/@]*@|[?&]password=", re.IGNORECASE)


class ExportConfig(FrozenModel):
    """One export: what `indexmill export` writes, and what a build writes after it has published."""

    format: ExportFormat = Field(description="see [exports](exports.md)")
    to: str = Field(
        min_length=1,
        description="files: a directory, or an s3://, gs:// or az:// URL; lancedb: a directory or such a URL; pgvector:"
        " `postgresql://[USER@]HOST/DATABASE`; qdrant: `http(s)://HOST:6333`, or a directory of its local mode. Secrets belong in the"
        " environment",
    )
    table: str | None = Field(
        default=None,
        pattern="^[A-Za-z_][A-Za-z0-9_-]{0,47}$",
        description="table (lancedb, pgvector) or collection alias (qdrant); by default the name of the index, with underscores",
    )

    @property
    def is_url(self) -> bool:
        """Whether `to` is a URL and not a path."""
        return "://" in self.to

    def with_absolute_path(self) -> ExportConfig:
        """Return the config with an absolute path, which means the same in any working directory."""
        return self if self.is_url else self.model_copy(update={"to": str(Path(self.to).expanduser().resolve())})

    @model_validator(mode="after")
    def _check_target(self) -> ExportConfig:
        if PASSWORD_IN_URL.search(self.to):
            raise ValueError("to: a URL without a password (put it in the environment, such as PGPASSWORD)")
        if self.format == "pgvector":
            if not POSTGRES_URL.fullmatch(self.to):
                raise ValueError("to: postgresql://[USER@]HOST/DATABASE, because the format is pgvector")
        elif self.is_url:
            allowed, example = (HTTP_URL, "http(s)://") if self.format == "qdrant" else (OBJECT_URL, "s3://, gs:// or az://")
            if not allowed.fullmatch(self.to):
                raise ValueError(f"to: a directory, or an {example} URL, because the format is {self.format}")
        if self.table is not None and self.format not in ("lancedb", "pgvector", "qdrant"):
            raise ValueError(f"no table: the format {self.format} writes files")
        return self
