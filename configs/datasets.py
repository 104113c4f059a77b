"""The section `dataset`: one model per source, chosen by `source`."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from indexmill.storage.records import FrozenModel


class BaseDatasetConfig(FrozenModel):
    """Settings of every source."""

    exclude_labels: tuple[str, ...] = Field(default=(), description="leave out the items with these labels")
    limit: int | None = Field(
        default=None, ge=1, description="random sample of at most this many items; a larger limit includes the items of a smaller one"
    )
    sample_seed: int = Field(default=0, description="seed of that sample")


class StdlibDatasetConfig(BaseDatasetConfig):
    """The documented modules, classes and functions of Python's standard library. The label is the module."""

    source: Literal["stdlib"]


class ImageFolderConfig(BaseDatasetConfig):
    """How to read a folder tree of images.

    A metadata file is `metadata.csv`, `.jsonl` or `.parquet` with a column `file_name`, as in Hugging Face's
    ImageFolder.
    """

    labels: Literal["folder", "metadata", "none"] = Field(
        default="folder",
        description="`folder`: the folder name at depth label_depth; `metadata`: label_column of a metadata file; `none`: no labels, and"
        " images at any depth",
    )
    label_depth: int = Field(default=1, ge=1, le=16, description="depth of the label folders; 1 is right below the top")
    label_column: str = Field(default="label", description="label column of the metadata file")
    captions: Literal["none", "metadata", "text"] = Field(
        default="none",
        description="`metadata`: caption_column of a metadata file; `text`: a .txt file of the same name beside the image",
    )
    caption_column: str = Field(default="text", description="caption column of the metadata file")


class FolderDatasetConfig(ImageFolderConfig):
    """A folder tree of images on disk."""

    source: Literal["folder"]
    path: str = Field(description="the folder; {root} is replaced by the root directory")


class KaggleDatasetConfig(ImageFolderConfig):
    """A Kaggle data set, downloaded and unpacked once per version, then read as a folder."""

    source: Literal["kaggle"]
    handle: str = Field(pattern="^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+$", description="OWNER/DATASET")
    version: int | None = Field(default=None, ge=1, description="the data set's version; the newest by default")
    subdir: str = Field(default="", description="the folder of images inside the data set")


class ColumnsConfig(BaseDatasetConfig):
    """Which columns of a table are read.

    With `image_column` the items are images and `text_column` holds their captions.
    """

    image_column: str | None = Field(default=None, description="column of images; with it the items are images")
    text_column: str | None = Field(default=None, description="column of texts, or of captions when there is an image column")
    label_column: str | None = Field(default=None, description="column of labels")
    key_column: str | None = Field(default=None, description="column of unique keys; by default rows are numbered")

    @model_validator(mode="after")
    def _require_column(self) -> ColumnsConfig:
        if not (self.image_column or self.text_column):
            raise ValueError("dataset.image_column, dataset.text_column or both")
        return self


SplitName = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]  # what the datasets library allows


class HuggingFaceDatasetConfig(ColumnsConfig):
    """A data set on the Hugging Face Hub, pinned to a commit."""

    source: Literal["huggingface"]
    id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", description="the data set's id, ORG/NAME")
    config: str | None = Field(default=None, description="the data set's configuration (subset)")
    split: SplitName | tuple[SplitName, ...] = Field(default="train", description="one or more splits to read")
    revision: str = Field(default="main", description="branch, tag or commit")
    streaming_above_bytes: int = Field(
        default=2_000_000_000, ge=0, description="stream data sets larger than this instead of downloading them as a whole"
    )


class TinyImagenetDatasetConfig(BaseDatasetConfig):
    """tiny-imagenet as its archive unpacks: train/<wnid>/images, val/val_annotations.txt, words.txt (labels)."""

    source: Literal["tiny-imagenet"]
    path: str = Field(description="the unpacked folder")
    splits: tuple[Literal["train", "val"], ...] = Field(default=("train", "val"), description="the splits to read")


class StsDatasetConfig(BaseDatasetConfig):
    """Sentences with scored pairs, in the text formats of the STS benchmark and of SICK."""

    source: Literal["sts"]
    stsbenchmark: str | None = Field(default=None, description="folder with sts-train.csv, sts-dev.csv, sts-test.csv")
    sick: str | None = Field(default=None, description="folder with SICK_train.txt, SICK_trial.txt, SICK_test_annotated.txt")

    @model_validator(mode="after")
    def _require_folder(self) -> StsDatasetConfig:
        if not (self.stsbenchmark or self.sick):
            raise ValueError("dataset.stsbenchmark, dataset.sick or both")
        return self


class TableDatasetConfig(ColumnsConfig):
    """A table of your own: Parquet, CSV with a header, or JSON lines.

    `image_column` holds paths relative to the table's folder.
    """

    source: Literal["parquet", "csv", "jsonl"]
    path: str = Field(description="the file, or a pattern such as data/*.parquet")
    encoding: str | None = Field(
        default=None,
        exclude_if=lambda encoding: encoding is None,
        description="encoding of CSV and JSON lines, such as cp1252; by default UTF-8, or UTF-16 and UTF-32 where the file starts so",
    )

    @field_validator("encoding")
    @classmethod
    def _require_known_encoding(cls, encoding: str | None) -> str | None:
        try:
            return codecs.lookup(encoding).name if encoding else encoding
        except LookupError:
            raise ValueError("the name of an encoding, such as utf-8, utf-16, cp1252 or shift_jis") from None


DatasetConfig = Annotated[
    StdlibDatasetConfig
    | FolderDatasetConfig
    | KaggleDatasetConfig
    | HuggingFaceDatasetConfig
    | TinyImagenetDatasetConfig
    | StsDatasetConfig
    | TableDatasetConfig,
    Field(discriminator="source"),
]
