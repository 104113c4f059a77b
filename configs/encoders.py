"""The section `encoder`: one model per library, chosen by `kind`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from indexmill.configs.targets import TargetName
from indexmill.storage.records import FrozenModel, Modality, Precision

Pooling = Literal["auto", "projection", "pooler", "cls", "mean"]


# Keys with these values are left out of dumps, so that configs without them keep their cache keys and digests.
def _is_auto(value: str) -> bool:
    return value == "auto"


def _is_none(value: object) -> bool:
    return value is None


class ModelSetting(FrozenModel):
    """The model of encoders that come with Indexmill."""

    model: str = Field(
        min_length=1, description="a model id, a local path, or package:NAME/PATH for a file or folder inside an installed Python package"
    )


class BaseEncoderConfig(FrozenModel):
    """Settings of every encoder."""

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
    chunk_rows: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto",
        description="contents per encode chunk, of which an interrupted run encodes at most one again; `auto`: about 45 seconds of work,"
        " and at most 4,096 chunks",
    )
    storage_dtype: Literal["float32", "float16"] = Field(
        default="float32", description="number format of stored vectors; float16 takes half the space"
    )
    dimensions: int | None = Field(
        default=None,
        ge=1,
        exclude_if=_is_none,
        description="use only the first numbers of each vector, for models trained for that (Matryoshka); the store keeps whole vectors, so"
        " another number encodes nothing again",
    )


class TextEncoderConfig(BaseEncoderConfig):
    """Settings of encoders that take texts."""

    query_prompt: str = Field(
        default="auto",
        exclude_if=_is_auto,
        description="what precedes every query: a literal such as `query: `, a name in the model's own prompts, or `auto`: what"
        " sentence-transformers' `encode_query` would use",
    )
    document_prompt: str = Field(
        default="auto",
        exclude_if=_is_auto,
        description="what precedes every text of the data set, as query_prompt; `auto`: what `encode_document` would use",
    )


class ImageOnlyEncoderConfig(BaseEncoderConfig):
    """Settings of encoders that take images only."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_prompts(cls, values: Any) -> Any:
        if isinstance(values, dict) and (named := [key for key in ("query_prompt", "document_prompt") if key in values]):
            raise ValueError(
                f"no encoder.{named[0]}: {values.get('kind')} encodes images only, and a prompt precedes a text; remove it, or set"
                " encoder.kind to sentence-transformers or open-clip"
            )
        return values


class SentenceTransformersEncoderConfig(TextEncoderConfig, ModelSetting):
    """Texts, by a sentence-transformers model: a path or an id on the Hugging Face Hub, ORG/NAME."""

    kind: Literal["sentence-transformers"]


class EfficientNetLiteEncoderConfig(ImageOnlyEncoderConfig, ModelSetting):
    """Images, by the pooled features of EfficientNet-Lite0 (1,280 dimensions)."""

    kind: Literal["efficientnet-lite"]


class OpenClipEncoderConfig(TextEncoderConfig, ModelSetting):
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


class TimmEncoderConfig(ImageOnlyEncoderConfig, ModelSetting):
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


class TransformersEncoderConfig(TextEncoderConfig, ModelSetting):
    """Images, texts, or both in one space, by a model of transformers: a path or an id on the Hugging Face Hub, ORG/NAME.

    For models that no other kind reads, such as SigLIP 2, DINOv3, or CLIP in the format of transformers.
    """

    kind: Literal["transformers"]
    pooling: Pooling = Field(
        default="auto",
        exclude_if=_is_auto,
        description="which vector of the model's output is taken: `projection` (get_image_features, get_text_features), `pooler`"
        " (pooler_output), `cls` (the first token), `mean` (of all tokens), or `auto`: what the model's card says, where Indexmill knows"
        " the architecture",
    )


class PythonEncoderConfig(TextEncoderConfig):
    """Texts, images, or both in one space, by a class or function of an installed Python package (see encoders.md)."""

    kind: Literal["python"]
    target: TargetName = Field(
        description="what makes the encoder: package.module:NAME, or the name of an entry point in the group indexmill.encoders"
    )
    modalities: tuple[Modality, ...] = Field(min_length=1, description="what it encodes: [text], [image] or [image, text]")
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="keyword arguments of the target; they are part of the fingerprint"
    )
    weights: tuple[str, ...] = Field(
        default=(),
        description="files and folders that the encoder loads, as paths or package:NAME/PATH; their SHA-256 are part of the fingerprint",
    )

    @field_validator("modalities")
    @classmethod
    def _order_modalities(cls, modalities: tuple[Modality, ...]) -> tuple[Modality, ...]:
        if len(set(modalities)) < len(modalities):
            raise ValueError("[text], [image] or [image, text]")
        return tuple(sorted(modalities))  # images first: captions are encoded after them

    @property
    def model(self) -> str:
        """What stands for the model in messages and reports."""
        return self.target

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # pydantic's own cannot hash `options`


EncoderConfig = Annotated[
    SentenceTransformersEncoderConfig
    | EfficientNetLiteEncoderConfig
    | OpenClipEncoderConfig
    | TimmEncoderConfig
    | TransformersEncoderConfig
    | PythonEncoderConfig,
    Field(discriminator="kind"),
]
