"""The section `dataset`: one model a source, told apart by `source`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from indexmill.configs.base import ConfigModel


class BaseDatasetConfig(ConfigModel):
    """What every source understands.

    exclude_labels: labels whose items are left out. limit: a random sample of so many items, drawn by a keyed hash of the key with
    `sample_seed`, so that a larger limit keeps the smaller one's items.
    """

    exclude_labels: tuple[str, ...] = ()
    limit: int | None = Field(default=None, ge=1)
    sample_seed: int = 0


class StdlibDatasetConfig(BaseDatasetConfig):
    """The documented modules, classes and functions of the running Python's standard library; label = module."""

    source: Literal["stdlib"]


class ImageFolderConfig(BaseDatasetConfig):
    """How a tree of images is read.

    labels: `folder` takes the name of the folder at depth `label_depth` below the top (1 is the first), `metadata` the column
    `label_column` of a metadata file, `none` reads images from any depth unlabelled. captions: `metadata` takes the column
    `caption_column`, `text` a .txt file of the same stem beside the image. A metadata file is Hugging Face ImageFolder's
    `metadata.csv`, `.jsonl` or `.scan_sql` with a column `file_name`.
    """

    labels: Literal["folder", "metadata", "none"] = "folder"
    label_depth: int = Field(default=1, ge=1, le=16)
    label_column: str = "label"
    captions: Literal["none", "metadata", "text"] = "none"
    caption_column: str = "text"


class FolderDatasetConfig(ImageFolderConfig):
    """A tree of images on disk."""

    source: Literal["folder"]
    path: str = Field(description="the folder; {root} stands for the root directory")


class KaggleDatasetConfig(ImageFolderConfig):
    """A Kaggle data set, downloaded and unpacked once a version, then read as a folder below `subdir`. version: None takes the newest."""

    source: Literal["kaggle"]
    handle: str = Field(pattern="^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+$")
    version: int | None = Field(default=None, ge=1)
    subdir: str = ""


class ColumnsConfig(BaseDatasetConfig):
    """Which columns of a table make an item.

    image_column makes items images, with text_column as their caption; else text_column is the item. key_column: None numbers the rows.
    """

    image_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    key_column: str | None = None

    @model_validator(mode="after")
    def _require_column(self) -> ColumnsConfig:
        if not (self.image_column or self.text_column):
            raise ValueError("name dataset.image_column, dataset.text_column or both")
        return self


SplitName = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]  # what the hub's library allows


class HuggingFaceDatasetConfig(ColumnsConfig):
    """A data set on the Hugging Face Hub, pinned to the commit that `revision` (a branch, tag or commit) stands for.

    split: one or more of its splits. streaming_above_bytes: a larger data set is streamed, never held on disk whole.
    """

    source: Literal["huggingface"]
    id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")
    config: str | None = None
    split: SplitName | tuple[SplitName, ...] = "train"
    revision: str = "main"
    streaming_above_bytes: int = Field(default=2_000_000_000, ge=0)


class TinyImagenetDatasetConfig(BaseDatasetConfig):
    """tiny-imagenet as its archive unpacks: train/<wnid>/images, val/val_annotations.txt, words.txt for labels that can be read."""

    source: Literal["tiny-imagenet"]
    path: str
    splits: tuple[Literal["train", "val"], ...] = ("train", "val")


class StsDatasetConfig(BaseDatasetConfig):
    """Sentences with scored pairs, in the text layouts of the STS benchmark (`stsbenchmark`) and of SICK (`sick`)."""

    source: Literal["sts"]
    stsbenchmark: str | None = Field(default=None, description="folder with sts-train.csv, sts-dev.csv, sts-test.csv")
    sick: str | None = Field(default=None, description="folder with SICK_train.txt, SICK_trial.txt, SICK_test_annotated.txt")

    @model_validator(mode="after")
    def _require_folder(self) -> StsDatasetConfig:
        if not (self.stsbenchmark or self.sick):
            raise ValueError("name dataset.stsbenchmark, dataset.sick or both")
        return self


class TableDatasetConfig(ColumnsConfig):
    """A table of a team's own: Parquet, CSV (with a header) or JSON lines; `path` may be a pattern such as data/*.parquet.

    image_column holds paths relative to the table's folder.
    """

    source: Literal["parquet", "csv", "jsonl"]
    path: str


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
