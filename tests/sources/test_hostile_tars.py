"""Broken and malicious shards: each is read right or rejected with its reason, and nothing leaves the shard."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexmill.storage.contents import join_location, read_content
from indexmill.storage.root import Root
from indexmill.tasks.sources.tar_reader import read_members
from tests.sources.tar_files import END, list_faults, make_jpeg, make_member, make_sample, open_shards, write_shard
from tests.stage_inputs import set_mtime

GOOD, OTHER = make_sample("good", 1), make_sample("other", 2)
JPEG = make_jpeg(3)
BOTH = {"a.tar/good": None, "a.tar/other": None}


def break_checksum(member: bytes) -> bytes:
    return member[:148] + b"0000000\0" + member[156:]


def pax_header(records: bytes) -> bytes:
    return make_member("pax", records, type=tarfile.XHDTYPE)


LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
HOSTILE: dict[str, tuple[bytes, dict[str, str | None]]] = {
    "a link": (GOOD + make_member("x.jpg", **LINK) + OTHER, BOTH | {"a.tar/x": "a link, which has no content of its own"}),
    "a hard link": (make_member("x.jpg", type=tarfile.LNKTYPE, linkname="../../y") + GOOD, {"a.tar/x": "a link", "a.tar/good": None}),
    "a device": (make_member("x.jpg", type=tarfile.CHRTYPE, devmajor=1) + GOOD, {"a.tar/x": "a special file", "a.tar/good": None}),
    "an absolute name": (make_member("/etc/x.jpg", JPEG), {"a.tar/etc/x": None}),
    "a name that leads out": (make_member("a/../../x.jpg", JPEG) + GOOD, {"a.tar:byte 512": "leads out", "a.tar/good": None}),
    "two members of a name": (GOOD + make_member("good.jpg", JPEG) + OTHER, {"a.tar/good": "2 members", "a.tar/other": None}),
    "the same with ./": (GOOD + make_member("./good.jpg", JPEG) + OTHER, {"a.tar/good": "2 members", "a.tar/other": None}),
    "an empty image": (make_member("x.jpg") + GOOD, {"a.tar/x": None, "a.tar/good": None}),
    "a claim of 10 GB": (make_member("x.jpg", JPEG, size=10**10) + GOOD, {"a.tar/x": "claims 10,000,000,000", "a.tar/good": None}),
    "a negative size": (
        make_member("x.jpg", JPEG, size=-5) + GOOD,
        {"a.tar": "are no member", "a.tar/good": None},
    ),
    "a long name of 10 GB": (
        make_member("long", b"x" * 600, type=tarfile.GNUTYPE_LONGNAME, size=10**10) + GOOD + OTHER,
        {"a.tar/good": "its header claims", "a.tar/other": None},
    ),
    "a pax header of 2 MB": (
        pax_header(b"9 a=bcde\n" * 230_000) + GOOD + OTHER,
        {"a.tar/good": "more than 1,048,576", "a.tar/other": None},
    ),
    "a broken pax header": (pax_header(b"99 path=x.jpg\n") + GOOD + OTHER, {"a.tar/good": "pax header is broken", "a.tar/other": None}),
    "an impossible pax size": (pax_header(b"11 size=-1\n") + GOOD + OTHER, {"a.tar/good": "impossible size", "a.tar/other": None}),
    "a pax path that leads out": (
        pax_header(b"23 path=../../../x.jpg\n") + GOOD + OTHER,
        {"a.tar:byte 1536": "leads out", "a.tar/other": None},
    ),
    "a wrong checksum": (GOOD + break_checksum(make_member("x.jpg", JPEG)) + OTHER, BOTH | {"a.tar:byte 2048": "bad checksum"}),
    "garbage between": (GOOD + random.Random(1).randbytes(5120) + OTHER, BOTH | {"a.tar:byte 2048": "are no member"}),
    "only garbage": (random.Random(2).randbytes(5000), {"a.tar": "not a tar archive"}),
    "gzip": (gzip.compress(GOOD), {"a.tar": "compressed by gzip"}),
    "sparse": (
        make_member("x.jpg", JPEG, type=tarfile.GNUTYPE_SPARSE) + GOOD,
        {"a.tar/x": "a sparse file", "a.tar/good": None},
    ),
    "pax sparse": (pax_header(b"22 GNU.sparse.major=1\n") + GOOD + OTHER, {"a.tar/good": "a sparse file", "a.tar/other": None}),
    "a name that is not UTF-8": (
        make_member("caf\udce9.jpg", JPEG) + make_member("日本.jpg", JPEG),
        {"a.tar/caf\\xe9": None, "a.tar/日本": None},
    ),
    "no image": (make_member("x.txt", b"text") + make_member("x.json", b"{}") + GOOD, {"a.tar/x": "no image", "a.tar/good": None}),
    "a caption that is not UTF-8": (GOOD + make_member("good.txt", b"\xff") + OTHER, {"a.tar/good": "not UTF-8", "a.tar/other": None}),
    "a caption of 2 MB": (GOOD + make_member("good.txt", b"x" * (2 << 20)) + OTHER, {"a.tar/good": "2,097,152 bytes", "a.tar/other": None}),
    "two archives": (GOOD + END + OTHER, BOTH),
    "no end": (GOOD + OTHER, BOTH),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_each_is_read_right_or_rejected_with_the_reason(name: str, tmp_path: Path, root: Root) -> None:
    """No key, path or range leads out of the shard, and no memory is taken for what a header claims."""
    content, expected = HOSTILE[name]
    shard = write_shard(tmp_path / "in/a.tar", content, end=b"" if name in ("only garbage", "gzip", "no end") else END)
    source = open_shards(root, shard, captions="text")
    tracemalloc.start()
    items = list(source.items())
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()
    faults = list_faults(iter(items))
    assert faults.keys() == expected.keys()
    for key, fault in expected.items():
        assert (faults[key] is None) if fault is None else fault in str(faults[key])
    for item in items:
        if item.path:
            assert len(read_content(join_location(source.image_root, item.path))) == item.size
            assert item.path.startswith("a.tar//")


def test_a_truncated_shard_costs_its_last_member(tmp_path: Path, root: Root) -> None:
    """Cut anywhere, the members before the cut are read, and the broken one is named or its header is."""
    whole = GOOD + OTHER
    for cut in range(0, len(whole) + 1, 700):
        shard = set_mtime(write_shard(tmp_path / "a.tar", whole[:cut], end=b""), 10**18 + cut)
        faults = list_faults(open_shards(root, shard).items())
        usable = {key for key, fault in faults.items() if fault is None}
        assert usable == {
            key
            for key, end in (("a.tar/good", 512 + len(make_jpeg(1))), ("a.tar/other", len(GOOD) + 512 + len(make_jpeg(2))))
            if end <= cut
        }
        assert len(faults) - len(usable) <= 1
        assert faults or cut in (0, len(GOOD))
        if cut == 0:
            assert faults == {"a.tar": "the shard has no bytes"}


def test_a_large_member_is_not_read(tmp_path: Path, root: Root) -> None:
    """A member that really has 10 GB (of holes) is refused by its size; the next one is read."""
    shard = tmp_path / "a.tar"
    with shard.open("wb") as file:
        file.write(make_member("x.jpg", size=10**10))
        file.seek(512 + -(-(10**10) // 512) * 512)
        file.write(GOOD + END)
    faults = list_faults(open_shards(root, set_mtime(shard)).items())
    assert faults == {"a.tar/x": "the member has 10,000,000,000 bytes, more than 268,435,456", "a.tar/good": None}


@given(st.data())
def test_any_damage_gives_members_inside_the_archive(data: st.DataObject) -> None:
    """Bytes changed at random never give an exception, or a member that is not inside."""
    content = bytearray(GOOD + make_member("y" * 150 + ".jpg", JPEG, tar_format=tarfile.PAX_FORMAT) + OTHER + END)
    for _ in range(data.draw(st.integers(1, 12))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    members = list(read_members(io.BytesIO(bytes(content)), len(content)))
    assert all(0 <= member.offset <= member.offset + member.size <= len(content) for member in members)
    assert [member.offset for member in members] == sorted({member.offset for member in members})
