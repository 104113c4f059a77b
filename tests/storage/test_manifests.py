"""The compatibility promise of `indexmill.storage.manifests`, and the published schemas."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from indexmill.flows.cli.app import app
from indexmill.serve import open_index
from indexmill.storage import catalog
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.manifests import NEWEST_SCHEMA_VERSION, OLDEST_SCHEMA_VERSION, Manifest
from indexmill.storage.root import Root
from indexmill.storage.schemas import SCHEMA_FILES, render_schema
from indexmill.storage.snapshots import Snapshots, compute_manifest_sha256

SAMPLES = Path(__file__).parent
DOCS = Path(__file__).parents[2] / "docs"


def load_sample(version: int) -> dict[str, Any]:
    return json.loads((SAMPLES / f"manifest-{version}.json").read_text(encoding="utf-8"))


def write_snapshot(root: Root, values: dict[str, Any], *, fix_digest: bool = True) -> Snapshots:
    """Write a live snapshot that is a manifest alone. fix_digest: set a manifest_sha256 that matches the values."""
    snapshots = Snapshots(root, values["name"])
    text = json.dumps({**values, "manifest_sha256": compute_manifest_sha256(values)} if fix_digest else values)
    root.scratch.write_text(snapshots.get_path(values["snapshot_id"]) / "manifest.json", text)
    snapshots.publish(values["snapshot_id"])
    return snapshots


def test_the_published_schemas_are_those_of_the_models() -> None:
    """After a change, `python -m indexmill.storage.schemas` writes them again."""
    for name, model in SCHEMA_FILES.items():
        assert (DOCS / name).read_text(encoding="utf-8") == render_schema(model), f"{name} is stale"
    jsonschema.validate(load_sample(NEWEST_SCHEMA_VERSION), json.loads((DOCS / "manifest.schema.json").read_text(encoding="utf-8")))
    assert Manifest.model_fields["schema_version"].default == NEWEST_SCHEMA_VERSION


def keep_fields(read: Any, values: Any) -> Any:
    """What was read, without the fields that were added to this version later."""
    match values:
        case dict():
            return {name: keep_fields(read[name], value) for name, value in values.items()}
        case list():
            return [keep_fields(*pair) for pair in zip(read, values, strict=True)]
    return read


@pytest.mark.parametrize("version", range(OLDEST_SCHEMA_VERSION, NEWEST_SCHEMA_VERSION + 1))
def test_a_manifest_of_every_supported_version_is_read(version: int, root: Root) -> None:
    """A manifest written by that version is read without any loss or change."""
    values = load_sample(version)
    snapshots = Snapshots(root, values["name"])
    folder = snapshots.get_path(values["snapshot_id"])
    folder.mkdir(parents=True)
    shutil.copyfile(SAMPLES / f"manifest-{version}.json", folder / "manifest.json")
    snapshots.publish(values["snapshot_id"])
    read = json.loads(snapshots.read_manifest().model_dump_json())
    assert keep_fields(read, values) == values
    assert (read["items"], read["shards"][0]["count"], read["verdict"]) == (120, 30, "published")
    assert catalog.rebuild(root) == 1


def test_a_manifest_of_schema_version_1_is_refused_with_the_next_step(root: Root) -> None:
    """The sample is as the first version wrote it."""
    values = load_sample(1)
    snapshots = Snapshots(root, values["name"])
    folder = snapshots.get_path(values["snapshot_id"])
    folder.mkdir(parents=True)
    shutil.copyfile(SAMPLES / "manifest-1.json", folder / "manifest.json")
    snapshots.publish(values["snapshot_id"])
    with pytest.raises(InputError, match="written by an older Indexmill") as refusal:
        snapshots.read_manifest()
    assert (refusal.value.expected, refusal.value.got) == ("schema_version 2", "schema_version 1")
    assert refusal.value.next_step == f"choose another root with --root, or remove {root.index(values['name'])} and build the index again"


def test_unknown_fields_are_ignored_and_fields_with_a_default_may_be_missing(root: Root) -> None:
    """This holds at every level. A missing field without a default is an error."""
    values = load_sample(NEWEST_SCHEMA_VERSION)
    values["moon"] = "waxing"
    values["search"]["moon"] = values["shards"][0]["moon"] = "waxing"
    assert write_snapshot(root, values).read_manifest().items == 120
    del values["training"]
    assert write_snapshot(root, values).read_manifest().training == {}
    del values["items"]
    with pytest.raises(InputError, match=r"manifest.json, items"):
        write_snapshot(root, values).read_manifest()


READERS = {
    "manifest": lambda root: Snapshots(root, "demo-images").read_manifest(),
    "live": lambda root: Snapshots(root, "demo-images").read_live_manifest(),
    "catalog": catalog.rebuild,
    "gc": collect_garbage,
    "open_index": lambda root: open_index(root.path, "demo-images"),
}
COMMANDS = (["snapshots"], ["show"], ["diff", "{id}"], ["rollback", "{id}"], ["pin"], ["verify"], ["search", "text"], ["merge"])


@pytest.mark.parametrize(
    ("version", "writer"),
    [(NEWEST_SCHEMA_VERSION + 1, "a newer Indexmill"), (NEWEST_SCHEMA_VERSION + 41, "a newer"), (OLDEST_SCHEMA_VERSION - 1, "an older")],
)
def test_every_reader_refuses_an_unsupported_version(version: int, writer: str, root: Root, tmp_path: Path) -> None:
    """The error names both versions and the next step, whatever else the manifest holds."""
    values = {**load_sample(NEWEST_SCHEMA_VERSION), "schema_version": version, "items": "a hundred and twenty"}
    snapshot_id = write_snapshot(root, values, fix_digest=False).list_ids()[0]
    parts = (
        f"written by {writer}",
        f"expected: schema_version {NEWEST_SCHEMA_VERSION}\n",
        f"got:      schema_version {version}\n",
        "next:     ",
    )
    for name, reader in READERS.items():
        with pytest.raises(InputError) as refusal:
            reader(root)
        assert [part for part in parts if part not in str(refusal.value)] == [], name
    for command in COMMANDS:
        arguments = [command[0], "demo-images", *(part.format(id=snapshot_id) for part in command[1:])]
        run = CliRunner().invoke(app, [*arguments, "--root", str(root.path)])
        assert run.exit_code == 2, (command, run.output)
        assert f"schema_version {version}" in run.stderr, command


@pytest.mark.parametrize("change", [{"schema_version": "2"}, {"schema_version": None}, {"manifest_sha256": ""}, {"items": 121}])
def test_a_manifest_that_was_changed_is_damaged(change: dict[str, Any], root: Root) -> None:
    """manifest_sha256 covers every other field."""
    with pytest.raises(DamagedFile, match="changed after it was written"):
        write_snapshot(root, {**load_sample(NEWEST_SCHEMA_VERSION), **change}, fix_digest=False).read_manifest()
