"""Queries that are near duplicates of database items are found, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.sources import Item
from indexmill.tasks.validation.image_reader import UNLIMITED, read_signature
from indexmill.tasks.validation.image_signature import HASH_BYTES, compute_signature
from indexmill.tasks.validation.near_duplicates import find_leaks
from tests.conftest import Build
from tests.stage_inputs import ListSource, list_image_items, read_rows, run_split

LEAK_DISTANCE = 12
DUPLICATES: dict[str, Callable[[Image.Image, Path], None]] = {
    "same": lambda tile, path: tile.save(path.with_suffix(".png")),
    "jpeg-95": lambda tile, path: tile.save(path, quality=95),
    "jpeg-60": lambda tile, path: tile.save(path, quality=60),
    "jpeg-25": lambda tile, path: tile.save(path, quality=25),
    "smaller": lambda tile, path: tile.resize((160, 160)).save(path.with_suffix(".png")),
    "larger": lambda tile, path: tile.resize((320, 320)).save(path.with_suffix(".png")),
    "cropped": lambda tile, path: tile.crop((1, 1, 212, 212)).save(path.with_suffix(".png")),
}


def make_tiles() -> list[Image.Image]:
    """Return twelve square tiles of two photographs, all different."""
    photographs = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    return [photo.crop((x, y, x + 213, y + 213)) for photo in photographs for x in (0, 213, 426) for y in (0, 213)]


def compute_distance(first: str, second: str) -> int:
    """Return the Hamming distance of two hashes in bits."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def test_near_duplicates_across_a_given_split_are_found_with_their_distance(root: Root, tmp_path: Path) -> None:
    """Recompressed, resized and slightly cropped copies leak to their originals; other images and strong crops do not."""
    image_root, pieces = tmp_path / "images", make_tiles()
    (image_root / "train").mkdir(parents=True)
    (image_root / "test").mkdir()
    for number, tile in enumerate(pieces[:8]):
        tile.save(image_root / "train" / f"{number}.png")
    for (name, make), number in zip(DUPLICATES.items(), range(7), strict=True):
        make(pieces[number], image_root / "test" / f"{number}-{name}.jpg")
    for number, tile in enumerate(pieces[8:]):
        tile.save(image_root / "test" / f"unrelated-{number}.png")
    pieces[0].crop((20, 20, 193, 193)).save(image_root / "test" / "far-crop.png")
    items = [Item(**{**vars(item), "split": item.label, "label": "l"}) for item in list_image_items(image_root)]
    record = run_split(root, ListSource(items, image_root=image_root), mode="given", leak_distance=LEAK_DISTANCE)
    table = {row["item_id"]: row for row in read_rows(root, record.table)}
    leaks = read_rows(root, next(ref for ref in record.files if ref.path.endswith("leaks.parquet")))
    pairs = {table[pair["query_id"]]["key"]: table[pair["database_id"]]["key"] for pair in leaks}
    names = [(name, Path(key).stem) for key in pairs for name in [Path(key).stem.split("-", 1)[1]]]
    assert sorted(name for name, _ in names) == sorted(DUPLICATES)
    assert all(original == f"train/{Path(key).stem[0]}.png" for key, original in pairs.items())
    for pair in leaks:
        paths = [image_root / table[pair[side]]["path"] for side in ("query_id", "database_id")]
        hashes = [read_signature(path.read_bytes(), UNLIMITED).perceptual_hash for path in paths]
        assert pair["distance"] == compute_distance(*hashes) <= LEAK_DISTANCE
    assert {row["key"] for row in table.values() if row["leak"]} == set(pairs)
    assert record.leaks == len(DUPLICATES)


def test_different_photographs_have_distant_hashes() -> None:
    """No two tiles are within 64 bits, far above the limit of 12."""
    hashes = [compute_signature(b"", tile).perceptual_hash for tile in make_tiles()]
    assert min(compute_distance(first, second) for row, first in enumerate(hashes) for second in hashes[:row]) > 64


@pytest.mark.parametrize("distance", [pytest.param(0, marks=pytest.mark.slow), 5, pytest.param(12, marks=pytest.mark.slow)])
def test_find_leaks_agrees_with_brute_force(distance: int, root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the nearest item, or the lowest id of equals, over several blocks and with pairs around the limit."""
    monkeypatch.setattr("indexmill.tasks.validation.near_duplicates.QUERY_BATCH_ROWS", 100)
    draw = np.random.default_rng(distance)
    hashes = draw.integers(0, 256, (20_000, HASH_BYTES), np.uint8)
    side = np.where(draw.random(len(hashes)) < 0.02, "query", "database")
    queries, database = np.flatnonzero(side == "query"), np.flatnonzero(side == "database")
    for query in queries[::2]:
        for duplicate in draw.choice(database, 3, replace=False):
            bits = np.unpackbits(hashes[query])
            bits[draw.choice(8 * HASH_BYTES, draw.integers(0, 16), replace=False)] ^= 1
            hashes[duplicate] = np.packbits(bits)
    for query in queries[::8]:
        hashes[draw.choice(database, 2, replace=False)] = hashes[query]  # equally near, in different blocks mostly
    columns = {"item_id": np.arange(len(hashes)) + 7, "perceptual_hash": [row.tobytes().hex() for row in hashes], "side": side}
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    count = find_leaks(root, tmp_path / "items.parquet", tmp_path / "leaks.parquet", by_hash=True, max_distance=distance)
    expected = []
    for query in queries:
        bits = np.bitwise_count(hashes[database] ^ hashes[query]).sum(1)
        if bits.min() <= distance:
            expected.append({"query_id": query + 7, "database_id": database[bits.argmin()] + 7, "distance": bits.min()})
    assert pq.read_table(tmp_path / "leaks.parquet").to_pylist() == expected
    assert count == len(expected) > 10


@pytest.mark.parametrize(("queries", "database"), [(0, 5), (5, 0)])
def test_one_side_alone_has_no_leaks(queries: int, database: int, root: Root, tmp_path: Path) -> None:
    """There is nothing to compare."""
    side = ["query"] * queries + ["database"] * database
    pq.write_table(pa.table({"item_id": range(5), "perceptual_hash": ["00" * HASH_BYTES] * 5, "side": side}), tmp_path / "items.parquet")
    assert find_leaks(root, tmp_path / "items.parquet", tmp_path / "leaks.parquet", by_hash=True, max_distance=12) == 0


def test_texts_that_differ_in_case_and_punctuation_leak_across_a_given_split(root: Root) -> None:
    """The query is paired with the lowest id of its duplicates; other texts do not leak."""
    texts = {"a": "A dog runs.", "b": "a dog  runs!", "c": "A DOG RUNS", "d": "A dog ran.", "e": "A cat sits.", "f": "a dog: runs"}
    listing = [Item(key, "l", text, split="test" if key in "cdf" else "train") for key, text in texts.items()]
    record = run_split(root, ListSource(listing), mode="given")
    ids = {row["key"]: row["item_id"] for row in read_rows(root, record.table)}
    leaks = read_rows(root, next(ref for ref in record.files if ref.path.endswith("leaks.parquet")))
    lowest = min(ids["a"], ids["b"])
    assert leaks == [{"query_id": ids[key], "database_id": lowest, "distance": 0} for key in sorted("cf", key=ids.__getitem__)]
    assert {row["key"] for row in read_rows(root, record.table) if row["leak"]} == {"c", "f"}
    assert record.leaks == 2


@pytest.mark.slow
@pytest.mark.parametrize("leaks", ["exclude", "keep"])
def test_leaking_queries_are_excluded_from_the_metrics_or_kept(leaks: str, build: Build, pictures: Path, tmp_path: Path) -> None:
    """The manifest counts the leaking queries, and the metrics cover the other queries or all."""
    for path in sorted(pictures.rglob("*.png"))[::2]:
        Image.open(path).resize((40, 40), Image.Resampling.BICUBIC).save(path.with_name(f"copy-{path.name}"))
    summary = build(pictures, "split.leak_distance=40", f"split.leaks={leaks}", "publish.serve=database")
    manifest = Snapshots(Root(tmp_path / "root"), "demo-images").read_manifest()
    items = pq.read_table(Path(summary["path"]) / "items.parquet").to_pylist()
    leaking = sum(row["leak"] for row in items)
    assert 0 < leaking == manifest.split["leaks"] < manifest.query
    metrics = (Path(summary["path"]) / "report" / "metrics.json").read_text()
    query_count = manifest.query - (leaking if leaks == "exclude" else 0)
    assert f'"queries": {query_count},' in metrics
