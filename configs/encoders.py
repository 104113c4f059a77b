"""The section `encoder`: one model per library, chosen by `kind`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from indexmill.storage.records import FrozenModel, Precision


class BaseEncoderConfig(FrozenModel):
    """Settings of every encoder."""

    model: str = Field(
        min_length=1, description="a model id, a local path, or package:NAME/PATH for a file or folder inside an installed Python package"
    )
    weights_sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="SHA-256 that the weights file must have before it is loaded"
    )
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="items per forward pass; `auto` starts with the encoder's default and halves it when memory runs out"
    )
    precision: Literal["auto"] | Precision = Field(
        default="auto",
        description="number format of the forward pass; `auto` takes the hardware's fastest one if its vectors of a sample agree with"
        " those of float32",
    )
    normalize: bool = Field(default=True, description="scale vectors to unit length")
    chunk_rows: int = Field(
        default=50_000, ge=1, description="largest number of contents per encode chunk; an interrupted run encodes at most one chunk again"
    )
    storage_dtype: Literal["float32", "float16"] = Field(
        default="float32", description="number format of stored vectors; float16 takes half the space"
    )


class SentenceTransformersEncoderConfig(BaseEncoderConfig):
    """Texts, by a sentence-transformers model: a path or an id on the Hugging Face Hub, ORG/NAME."""

    kind: Literal["sentence-transformers"]


class EfficientNetLiteEncoderConfig(BaseEncoderConfig):
    """Images, by the pooled features of EfficientNet-Lite0 (1,280 dimensions)."""

    kind: Literal["efficientnet-lite"]


class OpenClipEncoderConfig(BaseEncoderConfig):
    """Images and texts in one space, by a CLIP model of open_clip.

    `model` is an architecture of the library (`ViT-B-32`), or a model with its own configuration: `hf-hub:ORG/NAME`, or
    `local-dir:PATH` for a folder with the same files.
    """

    kind: Literal["open-clip"]
    pretrained: str | None = Field(
        default=None,
        min_length=1,
        description="weights for an architecture: a tag of the library (openai, laion2b_s34b_b79k), the path of a checkpoint (with a slash"
        " or a dot), or package:NAME/PATH",
    )

    @model_validator(mode="after")
    def _require_one_weights_source(self) -> OpenClipEncoderConfig:
        if self.model.startswith(("hf-hub:", "local-dir:")):
            if self.pretrained is not None:
                raise ValueError("no encoder.pretrained, because this encoder.model comes with its own weights")
        elif self.pretrained is None:
            raise ValueError("encoder.pretrained: a tag such as openai, or the path of a checkpoint")
        return self


class TimmEncoderConfig(BaseEncoderConfig):
    """Images, by the pooled features of a timm model.

    `model` is an architecture (`resnet18`, `mobilenetv3_large_100`).
    """

    kind: Literal["timm"]
    pretrained: str | None = Field(
        default=None,
        min_length=1,
        description="weights: a tag of the library (a1_in1k), the path of a checkpoint (with a slash or a dot), or package:NAME/PATH; by"
        " default the architecture's default tag, whose preprocessing local checkpoints use too",
    )


EncoderConfig = Annotated[
    SentenceTransformersEncoderConfig | EfficientNetLiteEncoderConfig | OpenClipEncoderConfig | TimmEncoderConfig,
    Field(discriminator="kind"),
]
