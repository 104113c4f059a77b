"""Names from configs, tables, archives, hubs, manifests and the command line never lead out of the folder meant for them."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.testclient import TestClient
from typer.testing import CliRunner

from indexmill.configs.loading import load_config
from indexmill.flows.cli.app import app
from indexmill.serve import open_index
from indexmill.serve.http.app import create_app
from indexmill.storage import catalog
from indexmill.storage.errors import IndexmillError, InputError
from indexmill.storage.names import is_plain_name, is_relative_inside
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots, compute_manifest_sha256
from indexmill.tasks.hub_files import require_commit_hash, require_relative_names
from indexmill.tasks.sources import Item
from indexmill.tasks.sources.downloads import unpack_archive
from indexmill.tasks.sources.image_files import resolve_image_path
from tests.examples import count_examples
from tests.stage_inputs import ListSource, list_image_items, read_rows, run_validate, write_noise
from tests.storage.snapshot_files import publish

# Two dots in ASCII and full width, a two-dot leader; slashes of all kinds; marks that reverse the direction of writing; NUL.
TRICKS = [
    "..",
    ".",
    "\uff0e\uff0e",
    "\u2025",
    "/",
    "\\",
    "\uff0f",
    "\u2215",
    "\u202e",
    "\u200f",
    "\0",
    "~",
    "a",
    "b.png",
    "C:",
    "%2e%2e",
    "é",
]
names = st.lists(st.sampled_from(TRICKS), max_size=7).map("".join) | st.text(max_size=20)


@given(names)
@example("../x")
@example("a/../../x")
@example("..\\x")
@example("\uff0e\uff0e/x")
@settings(max_examples=count_examples(300), deadline=None)
def test_an_accepted_name_stays_below_its_folder(name: str) -> None:
    """On every system; and a plain name is one entry of the folder, spelled the same."""
    folder = "/some/folder"
    if is_relative_inside(name):
        for written in (name, name.replace("\\", "/")):
            assert os.path.normpath(f"{folder}/{written}").startswith(folder)
    if is_plain_name(name):
        assert os.path.normpath(f"{folder}/{name}") == f"{folder}/{name}"
    assert not (name.startswith(("/", "../", "..\\")) and is_relative_inside(name))


def test_lookalikes_of_dots_and_slashes_are_ordinary_characters() -> None:
    """No system reads full-width dots or slashes as a path, and nothing normalizes a name before it becomes a path."""
    assert is_plain_name("\uff0e\uff0e\uff0fetc\uff0fpasswd")
    assert is_plain_name("\u202egnp.exe")
    assert not is_relative_inside("a/../..")
    assert not is_plain_name("a/b")


@given(names, names)
@settings(max_examples=count_examples(200), deadline=None)
def test_no_part_of_a_path_leads_out_of_the_root(first: str, second: str) -> None:
    """A name is refused, or its path is below the root, in the folder for its kind."""
    root = Root("/tmp", create=False)
    builders = {
        "sources": lambda: root.source(first, second),
        "datasets": lambda: root.dataset(first, "split", second),
        "studies": lambda: root.study(first),
        "embeddings": lambda: root.embeddings(first),
        "image_checks": lambda: root.image_checks(first),
        "encoders": lambda: root.device_profile(first, second),
        "indexes": lambda: root.trained_path("name", first, "faiss"),
    }
    for folder, build_path in builders.items():
        try:
            path = build_path()
        except InputError:
            continue
        assert os.path.normpath(path).startswith(f"/tmp/{folder}/")


@given(st.lists(names.filter(bool), min_size=1, max_size=4), st.booleans())
@settings(max_examples=count_examples(150), deadline=None)
def test_an_archive_is_unpacked_below_its_folder_or_not_at_all(members: list[str], zipped: bool) -> None:
    """Zip and tar with members of any name: nothing appears beside the folder, and a refused archive leaves nothing in it."""
    with TemporaryDirectory() as parent:
        archive, folder = Path(parent) / "archive", Path(parent) / "in" / "folder"
        folder.parent.mkdir()
        archive.write_bytes(pack(members, zipped=zipped))
        try:
            unpack_archive(archive, folder, where="here")
        except (IndexmillError, OSError) as error:
            if isinstance(error, InputError):
                assert not list(folder.iterdir())
        assert [path.name for path in folder.parent.iterdir()] == ["folder"]
        assert {path.name for path in Path(parent).iterdir()} <= {"archive", "in"}


def pack(members: list[str], *, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    encoded = [name.encode("utf-8", "replace").decode() for name in members]
    if zipped:
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in dict.fromkeys(name for name in encoded if not name.startswith("\0")):  # nothing would be left of it
                archive.writestr(zipfile.ZipInfo(name), b"x")
    else:
        with tarfile.open(fileobj=buffer, mode="w") as bundle:
            for name in encoded:
                bundle.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return buffer.getvalue()


@given(names)
@settings(max_examples=count_examples(200), deadline=None)
def test_a_table_cell_names_a_file_below_the_folder_or_none(cell: str) -> None:
    """Relative to the folder of the table."""
    path = resolve_image_path(Path("/data"), Path("/data/tables"), cell)
    assert path is None or (os.path.normpath(f"/data/{path}") == f"/data/{path}" and ".." not in path.split("/"))


@given(names)
@settings(max_examples=50, deadline=None)
def test_a_pipeline_name_has_plain_characters_only(name: str) -> None:
    """Otherwise the config is refused, and so is an index name on the command line."""
    with pytest.raises(InputError):
        load_config("demo-text", [f"name={json.dumps(name + '/')}"])
    with pytest.raises(InputError):
        Root("/tmp", create=False).index(name + "\uff0e")


def test_a_key_is_text_and_never_used_as_a_path(root: Root, tmp_path: Path) -> None:
    """Items whose keys look like paths are ordinary items, and no file is named after them."""
    keys = ["../../evil", "/etc/passwd", "\uff0e\uff0e/evil", "\u202egnp.evil"]
    items = [replace(item, key=key) for item, key in zip(write_images(tmp_path, len(keys)), keys, strict=True)]
    validated = run_validate(root, ListSource(items, image_root=tmp_path / "base"))
    assert {row["key"] for row in read_rows(root, validated.table)} == set(keys)
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name or "passwd" in path.name]


def write_images(parent: Path, count: int) -> list[Item]:
    for number in range(count):
        write_noise(parent / "base" / "l" / f"{number}.bmp", number)
    return list_image_items(parent / "base")


def test_a_link_out_of_an_image_folder_copies_nothing_into_the_root(root: Root, tmp_path: Path) -> None:
    """A link to a file that is no image is a reject, and no byte of that file is stored under the root."""
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret of the house " * 20)
    write_images(tmp_path, 3)
    (tmp_path / "base" / "l" / "link.png").symlink_to(secret)
    validated = run_validate(root, ListSource(list_image_items(tmp_path / "base"), image_root=tmp_path / "base"))
    assert [(row["key"], row["reason"]) for row in read_rows(root, validated.rejects)] == [("l/link.png", "not_an_image")]
    tables = [path for path in root.path.rglob("*.parquet") if "secret of the house" in str(pq.read_table(path).to_pylist())]
    assert tables == []
    assert not [path for path in root.path.rglob("*") if path.is_file() and b"secret of the house" in path.read_bytes()]


@pytest.mark.parametrize("commit", [None, "main", "../../x", "0" * 39, "0" * 40 + "\n", "\uff0e" * 40])
def test_commits_and_file_names_of_a_hub_are_checked(commit: str | None) -> None:
    """Both become paths, so a commit that is no hash and a name that leads out are refused."""
    with pytest.raises(InputError, match="could lead out"):
        require_commit_hash(commit, "x")
    with pytest.raises(InputError, match="could lead out"):
        require_relative_names(["model.json", "../../../.ssh/authorized_keys"], "x")
    require_relative_names(["model.json", "a/b.bin"], "x")
    assert require_commit_hash("0a" * 20, "x") == "0a" * 20


EVIL = ["../../../../../etc/passwd", "/etc/passwd", "a/../../b", "..\\b", "a\0b"]


@pytest.mark.parametrize("path", EVIL)
def test_no_record_names_a_file_outside_of_its_folder(path: str) -> None:
    """Every reference to a file is checked."""
    with pytest.raises(ValidationError):
        FileRef(path=path, size=0, sha256=None)


@pytest.mark.parametrize("key", ["files", "pool_files", "embedding_stores"])
def test_a_manifest_with_a_path_that_leads_out_is_refused_by_every_reader(key: str, root: Root) -> None:
    """With a valid checksum and a path to an existing file: that file is not opened, and the message names the wrong key."""
    snapshots = Snapshots(root, "name")
    snapshot_id = publish(root, "a" * 64)
    path = snapshots.get_path(snapshot_id) / "manifest.json"
    values = json.loads(path.read_text())
    evil_values = {"files": [{"path": EVIL[0], "size": 1, "sha256": None}], "pool_files": [EVIL[0]], "embedding_stores": {"f": EVIL[0]}}
    values[key] = evil_values[key]
    path.write_text(json.dumps({**values, "manifest_sha256": compute_manifest_sha256(values)}))
    readers = (snapshots.read_manifest, snapshots.read_live_manifest, lambda: open_index(root.path, "name"), lambda: catalog.rebuild(root))
    for reader in readers:
        with pytest.raises(InputError, match=f"does not follow the schema(.|\n)*{key}"):
            reader()
    for command in (["show", "name"], ["verify", "name"], ["snapshots", "name"], ["rollback", "name"], ["search", "name", "text"]):
        run = CliRunner().invoke(app, [*command, "--root", str(root.path)])
        assert run.exit_code == 2, command
        assert key in run.stderr


@pytest.mark.parametrize(
    "snapshot_id", ["../00001-aaaaaaaaaa", "/etc", "a\0b", "\uff0e\uff0e", "\u202e00001", "00001-aaaaaaaaaa/.", ".", "~"]
)
def test_a_snapshot_id_on_the_command_line_must_be_a_listed_one(snapshot_id: str, root: Root) -> None:
    """Anything else is refused, even if a file of that name exists."""
    publish(root, "a" * 64)
    for command in ("show", "verify", "rollback", "pin", "diff"):
        run = CliRunner().invoke(app, [command, "name", snapshot_id, "--root", str(root.path)])
        assert run.exit_code == 2, (command, run.output)
        assert "has no snapshot" in run.stderr
    with pytest.raises(InputError, match="has no snapshot"):
        open_index(root.path, "name", snapshot_id)


def test_a_folder_of_another_name_is_no_snapshot(root: Root) -> None:
    """A copy beside the snapshots is neither listed nor counted."""
    snapshots = Snapshots(root, "name")
    first = publish(root, "a" * 64)
    (snapshots.folder / "copy").mkdir()
    (snapshots.folder / "copy" / "manifest.json").write_text("{}")
    assert snapshots.list_ids() == [first]
    assert publish(root, "b" * 64) == "00002-bbbbbbbbbb"


HOSTILE_PATHS = [
    "/page/..%2f..%2f..%2fetc%2fpasswd", "/page/../../etc/passwd", "/page/%2fetc%2fpasswd", "/page/page.css%00", "/v1/indexes/..%2fname",
    "/v1/indexes/..%2f..%2fetc%2fpasswd/report", "/v1/indexes/name/items/..%2f..%2fmanifest", "/v1/indexes/name/items/%2e%2e/thumbnail",
    "/v1/indexes/name/items/%EF%BC%91", "/v1/indexes/name/items/99999999999999999999", "/v1/indexes/na%00me", "//etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_a_path_over_http_leads_to_no_file(path: str, root: Root) -> None:
    """An index must be served and an item must be a number; anything else is refused before a file is opened."""
    with TestClient(create_app(root.path, ["name"]), base_url="http://127.0.0.1") as client:
        response = client.get(path)
    assert response.status_code in (404, 422), response.text
    assert "root:" not in response.text
