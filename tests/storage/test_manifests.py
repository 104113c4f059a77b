"""What a manifest promises to those who read it: `indexmill.storage.manifests`."""

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
from indexmill.storage.snapshots import Snapshots, compute_manifest_sha256

SAMPLES = Path(__file__).parent
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "manifest.schema.json").read_text(encoding="utf-8"))


def sample(version: int) -> dict[str, Any]:
    return json.loads((SAMPLES / f"manifest-{version}.json").read_text(encoding="utf-8"))


def put(root: Root, values: dict[str, Any], *, sealed: bool = True) -> Snapshots:
    """The only snapshot of its index, and the live one. sealed: with a seal that fits what the values are now."""
    snapshots = Snapshots(root, values["name"])
    text = json.dumps({**values, "manifest_sha256": compute_manifest_sha256(values)} if sealed else values)
    root.scratch.write_text(snapshots.get_path(values["snapshot_id"]) / "manifest.json", text)
    snapshots.publish(values["snapshot_id"])
    return snapshots


def test_the_schema_is_the_models_own() -> None:
    """docs/manifest.schema.json is what this version writes, and the samples follow it."""
    schema = dict(SCHEMA)
    assert schema.pop("$schema").startswith("https://json-schema.org/")
    assert schema == Manifest.model_json_schema()
    jsonschema.validate(sample(NEWEST_SCHEMA_VERSION), SCHEMA)
    assert Manifest.model_fields["schema_version"].default == NEWEST_SCHEMA_VERSION


@pytest.mark.parametrize("version", range(OLDEST_SCHEMA_VERSION, NEWEST_SCHEMA_VERSION + 1))
def test_a_manifest_of_every_number_is_read(version: int, root: Root) -> None:
    """As it was written by the Indexmill of its time, seal and all: nothing of it is lost or changed."""
    values = sample(version)
    snapshots = Snapshots(root, values["name"])
    folder = snapshots.get_path(values["snapshot_id"])
    folder.mkdir(parents=True)
    shutil.copyfile(SAMPLES / f"manifest-{version}.json", folder / "manifest.json")
    snapshots.publish(values["snapshot_id"])
    read = json.loads(snapshots.read_manifest().model_dump_json())
    assert {name: read[name] for name in values} == values
    assert (read["items"], read["shards"][0]["count"], read["verdict"]) == (120, 30, "published")
    assert catalog.rebuild(root) == 1


def test_a_field_that_was_added_within_the_number_is_passed_over(root: Root) -> None:
    """At the top and below; one that is gone is missed unless it has a default."""
    values = sample(NEWEST_SCHEMA_VERSION)
    values["moon"] = "waxing"
    values["search"]["moon"] = values["shards"][0]["moon"] = "waxing"
    assert put(root, values).read_manifest().items == 120
    del values["training"]
    assert put(root, values).read_manifest().training == {}
    del values["items"]
    with pytest.raises(InputError, match=r"manifest.json, items"):
        put(root, values).read_manifest()


READERS = {
    "manifest": lambda root: Snapshots(root, "demo-images").read_manifest(),
    "live": lambda root: Snapshots(root, "demo-images").read_live_manifest(),
    "catalog": catalog.rebuild,
    "gc": collect_garbage,
    "open_index": lambda root: open_index(root.path, "demo-images"),
}
COMMANDS = (["snapshots"], ["show"], ["diff", "{id}"], ["rollback", "{id}"], ["pin"], ["verify"], ["search", "text"], ["merge"])


@pytest.mark.parametrize(
    ("version", "what"),
    [(NEWEST_SCHEMA_VERSION + 1, "a newer Indexmill"), (NEWEST_SCHEMA_VERSION + 41, "a newer"), (OLDEST_SCHEMA_VERSION - 1, "an older")],
)
def test_another_number_is_refused_by_every_reader(version: int, what: str, root: Root, tmp_path: Path) -> None:
    """Whatever else it holds, and however it is sealed: with both numbers and the next step."""
    values = {**sample(NEWEST_SCHEMA_VERSION), "schema_version": version, "items": "a hundred and twenty"}
    snapshot_id = put(root, values, sealed=False).list_ids()[0]
    said = (
        f"written by {what}",
        f"expected: schema_version {NEWEST_SCHEMA_VERSION}\n",
        f"got:      schema_version {version}\n",
        "next:     ",
    )
    for name, reader in READERS.items():
        with pytest.raises(InputError) as refusal:
            reader(root)
        assert [part for part in said if part not in str(refusal.value)] == [], name
    for command in COMMANDS:
        arguments = [command[0], "demo-images", *(part.format(id=snapshot_id) for part in command[1:])]
        run = CliRunner().invoke(app, [*arguments, "--root", str(root.path)])
        assert run.exit_code == 2, (command, run.output)
        assert f"schema_version {version}" in run.stderr, command


@pytest.mark.parametrize("change", [{"schema_version": "2"}, {"schema_version": None}, {"manifest_sha256": ""}, {"items": 121}])
def test_what_was_changed_after_it_was_written_is_damage(change: dict[str, Any], root: Root) -> None:
    """The seal is over all that stands there."""
    with pytest.raises(DamagedFile, match="not what was written"):
        put(root, {**sample(NEWEST_SCHEMA_VERSION), **change}, sealed=False).read_manifest()
