"""Which encoder makes the vectors, and how: a section a library."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from indexmill.configs.base import ConfigModel

Precision = Literal["float32", "bfloat16", "float16"]


class BaseEncoderConfig(ConfigModel):
    """What every encoder understands.

    model: a model id, a local path, or `package:NAME/PATH` for a file or folder inside an installed Python package.
    weights_sha256: when given, the weights file must have this digest before it is loaded.
    batch_size: items a forward pass; `auto` takes the encoder's own and halves it when memory runs out.
    precision: the number format of the whole model; `auto` takes the fastest one that the hardware has, while vectors of a sample of the
    items agree with those of float32.
    shard_rows: vectors a Parquet part, the most that a killed run has to encode again. store: how the vectors' numbers are kept; float16
    takes half the room.
    """

    model: str = Field(min_length=1)
    weights_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    precision: Literal["auto"] | Precision = "auto"
    normalize: bool = True
    chunk_rows: int = Field(default=50_000, ge=1)
    storage_dtype: Literal["float32", "float16"] = "float32"


class SentenceTransformersEncoderConfig(BaseEncoderConfig):
    """Texts, by a sentence-transformers model. model may also be a model's id on the Hugging Face Hub, ORG/NAME."""

    kind: Literal["sentence-transformers"]


class EfficientNetLiteEncoderConfig(BaseEncoderConfig):
    """Images, by the pooled features of EfficientNet-Lite0 (1,280 numbers)."""

    kind: Literal["efficientnet-lite"]


class OpenClipEncoderConfig(BaseEncoderConfig):
    """Images, and the texts that describe them, in one space, by a CLIP model of open_clip.

    model: an architecture of the library (`ViT-B-32`), or a model with a configuration of its own: `hf-hub:ORG/NAME`, or
    `local-dir:PATH` for a folder that holds the same files. pretrained: which weights go with an architecture, as a tag of the library
    (`openai`, `laion2b_s34b_b79k`), a checkpoint's path, or `package:NAME/PATH`; a path has a slash or a dot in it, a tag has neither.
    """

    kind: Literal["open-clip"]
    pretrained: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _require_one_weights_source(self) -> OpenClipEncoderConfig:
        if self.model.startswith(("hf-hub:", "local-dir:")):
            if self.pretrained is not None:
                raise ValueError("encoder.pretrained goes with an architecture; this encoder.model brings its own weights")
        elif self.pretrained is None:
            raise ValueError("name encoder.pretrained: a tag such as openai, or the path of a checkpoint")
        return self


class TimmEncoderConfig(BaseEncoderConfig):
    """Images, by the pooled features of a timm model.

    model: an architecture of the library (`resnet18`, `mobilenetv3_large_100`). pretrained: which weights, as a tag of the library
    (`a1_in1k`), a checkpoint's path, or `package:NAME/PATH`; a path has a slash or a dot in it, a tag has neither. None takes the
    library's default tag. A local checkpoint's images are prepared as those of the default tag.
    """

    kind: Literal["timm"]
    pretrained: str | None = Field(default=None, min_length=1)


EncoderConfig = Annotated[
    SentenceTransformersEncoderConfig | EfficientNetLiteEncoderConfig | OpenClipEncoderConfig | TimmEncoderConfig,
    Field(discriminator="kind"),
]
