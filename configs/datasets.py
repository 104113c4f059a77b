"""The section `dataset`: one model per source, chosen by `source`."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BeforeValidator, ByteSize, Discriminator, Field, Tag, field_validator, model_validator

from indexmill.storage.records import FrozenModel

DATABASES = ("postgresql", "mysql", "mariadb", "sqlite", "duckdb")
QUERY_SUFFIXES = (".parquet", ".csv", ".jsonl")


class ChunkConfig(FrozenModel):
    """How to divide texts that are longer than the encoder's context."""

    tokens: int = Field(ge=8, description="most tokens of a chunk, the model's special tokens and the document prompt included")
    overlap: int = Field(default=0, ge=0, description="most tokens that a chunk repeats from the one before")

    @model_validator(mode="after")
    def _require_smaller_overlap(self) -> ChunkConfig:
        if self.overlap >= self.tokens:
            raise ValueError(f"dataset.chunk.overlap below dataset.chunk.tokens ({self.tokens}), such as {self.tokens // 8}")
        return self


class QueriesConfig(FrozenModel):
    """A table of queries of your own: Parquet, CSV with a header, or JSON lines, by the ending of its name."""

    path: str = Field(description="the file: .parquet, .csv or .jsonl; relative to the working directory")
    id_column: str = Field(default="id", description="column of unique query ids, which the judgements name")
    text_column: str = Field(default="text", description="column of texts, unless image_column is set")
    image_column: str | None = Field(
        default=None, description="column of images; with it the queries are images, and paths are relative to the table's folder"
    )

    @field_validator("path")
    @classmethod
    def _require_table(cls, path: str) -> str:
        if not path.endswith(QUERY_SUFFIXES):
            raise ValueError(f"a file that ends with {', '.join(QUERY_SUFFIXES)}")
        return path


def _read_path_alone(value: Any) -> Any:
    """Read `queries: FILE` as `queries: {path: FILE}`."""
    if not isinstance(value, str) or value == "pairs":
        return value
    if not value.endswith(QUERY_SUFFIXES):
        raise ValueError(f"pairs, or a file that ends with {', '.join(QUERY_SUFFIXES)}")
    return {"path": value}


def _choose_queries(value: Any) -> str:
    return "pairs" if value == "pairs" else "file"


Queries = Annotated[
    Annotated[Literal["pairs"], Tag("pairs")] | Annotated[QueriesConfig, Tag("file")],
    Discriminator(_choose_queries),
    BeforeValidator(_read_path_alone),
]


class BaseDatasetConfig(FrozenModel):
    """Settings of every source."""

    queries: Queries | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="queries of your own, a file or a section, instead of held-out items; `pairs`: every caption is a query for its"
        " image, or with index.modality text every image for its captions",
    )
    judgements: str | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="graded relevance of items (by key) to those queries (by id): a file in TREC's qrels format, or BEIR's .tsv",
    )

    exclude_labels: tuple[str, ...] = Field(default=(), description="leave out the items with these labels")
    limit: int | None = Field(
        default=None, ge=1, description="random sample of at most this many items; a larger limit includes the items of a smaller one"
    )
    sample_seed: int = Field(default=0, description="seed of that sample")
    chunk: ChunkConfig | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="divide texts for the index into chunks of at most this many tokens; searches still return items",
    )

    @property
    def has_own_queries(self) -> bool:
        """Whether the data set brings queries, so that no item is held out."""
        return self.queries is not None

    @model_validator(mode="after")
    def _require_queries_of_judgements(self) -> BaseDatasetConfig:
        if self.judgements is not None and not isinstance(self.queries, QueriesConfig):
            raise ValueError("dataset.queries as a file, because dataset.judgements names its ids")
        return self


class DownloadsConfig(FrozenModel):
    """How to download the images of a data set that is not on disk."""

    max_bytes: ByteSize = Field(default=ByteSize(50_000_000), gt=0, description="largest image; larger ones are rejected")
    per_host: int = Field(default=8, ge=1, le=32, description="most downloads from one host at the same time")
    recheck_days: float = Field(
        default=7,
        ge=0,
        description="how long a downloaded URL of an image column counts as unchanged; then the server is asked whether it has changed."
        " 0: in every build. Objects of a folder in a bucket are compared with its listing instead",
    )
    allow_private: bool = Field(
        default=False, description="also follow URLs in rows, and redirects, to private, loopback and link-local addresses"
    )


class DownloadingConfig(BaseDatasetConfig):
    """Settings of sources whose images may have to be downloaded."""

    downloads: DownloadsConfig = Field(
        default=DownloadsConfig(),
        exclude_if=lambda downloads: downloads == DownloadsConfig(),
        description="how to download images from a bucket or from URLs",
    )


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


class FolderDatasetConfig(ImageFolderConfig, DownloadingConfig):
    """A folder tree of images on disk or in a bucket."""

    source: Literal["folder"]
    path: str = Field(description="the folder, or its URL (s3://BUCKET/PREFIX, gs://…, az://…); {root} is replaced by the root directory")


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


class TableDatasetConfig(ColumnsConfig, DownloadingConfig):
    """A table of your own: Parquet, CSV with a header, or JSON lines.

    `image_column` holds URLs, paths relative to the table's folder, or in Parquet the images themselves.
    """

    source: Literal["parquet", "csv", "jsonl"]
    path: str = Field(
        description="the file, a pattern such as data/*.parquet, or a URL of either (s3://…, gs://…, az://…; https://… of one file)"
    )
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


class WebDatasetConfig(BaseDatasetConfig):
    """Images in tar shards, as img2dataset and LAION write them: 000000000.jpg with .txt and .json beside it."""

    source: Literal["webdataset"]
    path: str = Field(
        description="the shards: a file, a pattern or braces, such as data/{00000..00012}.tar, or a URL of these with s3://, gs://, az://"
        " or https://; {root} is replaced by the root directory"
    )
    labels: Literal["none", "folder", "json", "cls"] = Field(
        default="none", description="`folder`: the folder of the member in the shard; `json`: label_column of the .json; `cls`: the .cls"
    )
    label_column: str = Field(default="label", description="field of the .json with the label")
    captions: Literal["none", "text", "json"] = Field(default="none", description="`text`: the .txt; `json`: caption_column of the .json")
    caption_column: str = Field(default="caption", description="field of the .json with the caption")
    key_column: str | None = Field(default=None, description="field of the .json with unique keys; by default shard and name")


class SqlDatasetConfig(ColumnsConfig, DownloadingConfig):
    """The rows of a query over PostgreSQL, MySQL, MariaDB, SQLite or DuckDB, read in a transaction that cannot write.

    `image_column` holds images as bytes, URLs, or paths below `image_folder`.
    """

    source: Literal["sql"]
    url: str = Field(
        description="the database: postgresql://HOST/NAME, mysql://HOST/NAME, sqlite:///FILE or duckdb:///FILE; without a password"
    )
    query: str = Field(min_length=1, description="one SELECT; its result's columns are the table")
    key_column: str = Field(description="column of unique keys")  # rows of a query have no lasting numbers
    image_folder: str | None = Field(default=None, description="folder of the images that image_column names by path")
    revision_query: str | None = Field(
        default=None,
        description="a cheap SELECT whose result changes with the rows, such as count(*) and max(updated_at); by default the whole"
        " query is read in every build to see whether a row has changed",
    )
    user_variable: str = Field(default="INDEXMILL_SQL_USER", description="environment variable with the user's name")
    password_variable: str = Field(default="INDEXMILL_SQL_PASSWORD", description="environment variable with the password")
    timeout_s: float = Field(default=3600, gt=0, description="longest time from a query's start to its last row, in seconds")

    @model_validator(mode="after")
    def _require_url_without_password(self) -> SqlDatasetConfig:
        # A validator of the whole section, so that the error does not show the URL.
        try:
            parts = urlsplit(self.url)
        except ValueError:
            raise ValueError("dataset.url as in postgresql://HOST/NAME or sqlite:///FILE") from None
        if parts.scheme not in DATABASES:
            raise ValueError(f"a dataset.url that starts with one of {', '.join(f'{name}://' for name in DATABASES)}")
        if parts.password is not None or any("pass" in name.lower() for name, _ in parse_qsl(parts.query)):
            raise ValueError(f"no password in dataset.url; set the environment variable {self.password_variable} instead")
        return self


class BeirDatasetConfig(BaseDatasetConfig):
    """A retrieval data set in BEIR's layout: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, on disk or on the Hugging Face Hub.

    The text of an item is its title and its text, joined by a space. The queries are those that the split judges.
    """

    source: Literal["beir"]
    path: str | None = Field(default=None, description="the folder with corpus.jsonl, or Parquet files in folders of these names")
    id: str | None = Field(
        default=None, pattern=r"^[\w.-]+/[\w.-]+$", description="instead of path: the data set's id on the hub, as in BeIR/scifact"
    )
    qrels_id: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="the hub's data set with the judgements; by default ID-qrels for BeIR/…, else the same",
    )
    revision: str = Field(default="main", description="branch, tag or commit on the hub")
    split: SplitName = Field(default="test", description="the judgements to read, qrels/SPLIT")

    @property
    def has_own_queries(self) -> bool:
        """Always true."""
        return True

    @model_validator(mode="after")
    def _require_one_place(self) -> BeirDatasetConfig:
        if (self.path is None) == (self.id is None):
            raise ValueError("dataset.path or dataset.id, one of the two")
        if self.queries is not None:
            raise ValueError("no dataset.queries: a BEIR data set brings its own; evaluation.sets adds others")
        return self


DatasetConfig = Annotated[
    StdlibDatasetConfig
    | FolderDatasetConfig
    | KaggleDatasetConfig
    | HuggingFaceDatasetConfig
    | TinyImagenetDatasetConfig
    | StsDatasetConfig
    | TableDatasetConfig
    | WebDatasetConfig
    | SqlDatasetConfig
    | BeirDatasetConfig,
    Field(discriminator="source"),
]
