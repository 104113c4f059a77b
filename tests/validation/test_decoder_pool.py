"""A decoder that hangs, crashes or runs out of memory costs one image; the others keep their results and order."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from broken_files import list_broken_files
from misbehaving_decoders import crash_once, get_process_id, misbehave
from valid_files import list_valid_files

from indexmill.storage.digests import content_digest
from indexmill.storage.errors import IndexmillError
from indexmill.tasks.validation import decoder_pool
from indexmill.tasks.validation.decoder_pool import MAX_IN_FLIGHT, DecoderPool
from indexmill.tasks.validation.decoder_worker import DecodeRequest
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage, read_signature

LIMITS = ImageLimits(max_pixels=1_000_000, min_side=2, max_aspect_ratio=50)


@pytest.fixture(autouse=True)
def no_leftover_processes() -> Iterator[None]:
    """No test leaves a process behind, not even a zombie."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.fixture
def many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process starts with the first."""
    monkeypatch.setattr(decoder_pool, "REQUESTS_PER_PROCESS", 0)


def decode_paths(paths: list[str], timeout_s: float = 60, decode: Callable[[DecodeRequest, ImageLimits], str] = misbehave) -> list[str]:
    """Return the result of each path, or the reason code in parentheses."""
    with DecoderPool(LIMITS, timeout_s=timeout_s, decode=decode) as pool:
        results = list(pool.decode_all(DecodeRequest(path, "") for path in paths))
    return [f"({result.reason})" if isinstance(result, UnreadableImage) else result for result in results]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("hang", "timeout"),
        ("crash", "decoder_crash"),
        pytest.param("abort", "decoder_crash", marks=pytest.mark.slow),
        pytest.param("leave", "decoder_crash", marks=pytest.mark.slow),
        ("fail", "decoder_crash"),
        ("exhaust-memory", "memory"),
        ("refuse", "damaged"),
    ],
)
def test_a_bad_image_costs_one_result(path: str, reason: str) -> None:
    """Images before and after it, in the same process and in another, are decoded."""
    paths = [str(number) for number in range(30)]
    paths[7] = path
    expected = [f"({reason})" if value == path else value for value in paths]
    assert decode_paths(paths, timeout_s=2 if path == "hang" else 60) == expected


@pytest.mark.slow
def test_each_of_several_bad_images_gets_its_reason(many_processes: None) -> None:
    """A crash or a suspicion does not count against the next image."""
    paths = ["hang", "crash", "exhaust-memory", "0", "crash", "crash", "refuse", "fail", "1", "leave", "hang", "2"]
    reasons = {"hang": "(timeout)", "exhaust-memory": "(memory)", "refuse": "(damaged)"} | dict.fromkeys("012")
    assert decode_paths(paths, timeout_s=2) == [reasons.get(path, "(decoder_crash)") or path for path in paths]


def test_the_message_describes_the_failure() -> None:
    """It names the signal, the time limit in seconds, or the exception's type."""
    with DecoderPool(LIMITS, timeout_s=1.5, decode=misbehave) as pool:
        crash, hang, fail = map(str, pool.decode_all(DecodeRequest(path, "") for path in ("crash", "hang", "fail")))
    assert "SIGSEGV" in crash and "1.5 seconds" in hang and "KeyError: 'a bug'" in fail


def test_one_crash_is_not_blamed_on_the_image(tmp_path: Path) -> None:
    """A process that dies once (damaged by an earlier image, say) is replaced, and the image is decoded."""
    assert decode_paths([str(tmp_path / name) for name in "abc"], decode=crash_once) == ["a", "b", "c"]


def test_results_keep_the_order_of_requests(many_processes: None) -> None:
    """Whichever process gives them."""
    paths = [str(number) for number in range(2000)]
    assert decode_paths(paths) == paths


@pytest.mark.slow
def test_requests_in_flight_are_bounded(many_processes: None) -> None:
    """Requests are consumed as results are used, never all at once, also behind one that hangs."""
    consumed = 0

    def requests() -> Iterator[DecodeRequest]:
        nonlocal consumed
        for number in range(3000):
            consumed += 1
            yield DecodeRequest("hang" if number == 20 else str(number), "")

    with DecoderPool(LIMITS, timeout_s=2, decode=misbehave) as pool:
        for used, _ in enumerate(pool.decode_all(requests())):
            assert consumed - used <= MAX_IN_FLIGHT + 1


def test_few_images_use_one_process_and_many_use_all() -> None:
    """A second process starts once there is enough work, and both serve later batches."""
    assert len(set(decode_paths(["x"] * 20, decode=get_process_id))) == 1
    assert len(set(decode_paths(["x"] * 400, decode=get_process_id))) == 2
    with DecoderPool(LIMITS, timeout_s=10, decode=get_process_id) as pool:
        first, second = (set(pool.decode_all([DecodeRequest("x", "")] * 3)) for _ in range(2))
    assert first == second


def test_no_work_starts_no_process() -> None:
    """A pool without requests has no processes."""
    before = psutil.Process().children()
    with DecoderPool(LIMITS, timeout_s=10) as pool:
        assert list(pool.decode_all([])) == []
        assert psutil.Process().children() == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_ends_the_processes(error: type[BaseException]) -> None:
    """Whatever interrupts the caller, a hanging decoder is killed."""
    start = time.monotonic()
    with pytest.raises(error), DecoderPool(LIMITS, timeout_s=600, decode=misbehave) as pool:
        for result in pool.decode_all(DecodeRequest(path, "") for path in ("0", "1", "hang")):
            if result == "1":
                raise error
    assert time.monotonic() - start < 300  # it does not wait for the time limit


def test_leaving_a_batch_early_does_not_affect_the_next() -> None:
    """Results of the abandoned batch do not appear in the next one."""
    with DecoderPool(LIMITS, timeout_s=10, decode=misbehave) as pool:
        batch = pool.decode_all(DecodeRequest(str(number), "") for number in range(100))
        assert next(batch) == "0"
        batch.close()  # type: ignore[attr-defined]
        assert list(pool.decode_all([DecodeRequest("other", "")])) == ["other"]


def test_a_killed_caller_leaves_no_process(tmp_path: Path) -> None:
    """The processes exit on their own when their parent is gone."""
    code = (
        "import os, signal, sys; sys.path[:0] = sys.argv[1:]\n"
        "from misbehaving_decoders import get_process_id\nfrom indexmill.tasks.validation.decoder_pool import DecoderPool\n"
        "from indexmill.tasks.validation.decoder_worker import DecodeRequest\n"
        "from indexmill.tasks.validation.image_reader import ImageLimits\n"
        "pool = DecoderPool(ImageLimits(), timeout_s=60, decode=get_process_id)\n"
        "print(*pool.decode_all([DecodeRequest('x', '')]), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    completed = subprocess.run([sys.executable, "-c", code, *sys.path], capture_output=True, text=True)
    orphan = int(completed.stdout)
    deadline = time.monotonic() + 600
    while psutil.pid_exists(orphan) and psutil.Process(orphan).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


def test_output_of_libraries_is_discarded(capfd: pytest.CaptureFixture[str]) -> None:
    """What a decoder prints reaches neither the terminal nor the results."""
    assert decode_paths(["print", "0"]) == ["print", "0"]
    assert capfd.readouterr() == ("", "")


def test_a_process_that_cannot_start_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is not blamed on an image."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(IndexmillError, match="failed to start"):
        decode_paths(["0"])


def test_the_worker_imports_little() -> None:
    """It starts quickly, without Prefect and other large libraries."""
    code = "import sys, indexmill.tasks.validation.decoder_worker; print(*sys.modules)"
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert not {"prefect", "torch", "polars", "pyarrow", "pandera", "pydantic", "scipy", "pandas"} & set(completed.stdout.split())


@pytest.mark.slow
def test_every_file_of_a_folder_gets_a_result(tmp_path: Path) -> None:
    """Every kind of file gives the same group or reason as in this process; changed and missing files are reported."""
    requests, expected = [], []
    for kind in [*list_valid_files(), *list_broken_files()]:
        (tmp_path / kind.name).write_bytes(kind.content)
        requests.append(DecodeRequest(str(tmp_path / kind.name), content_digest(kind.content)))
        expected.append(kind.reason or "".join(read_signature(kind.content, LIMITS)))
    requests += [requests[0]._replace(content_digest="0" * 32), DecodeRequest(str(tmp_path / "none"), ""), DecodeRequest(str(tmp_path), "")]
    with DecoderPool(LIMITS, timeout_s=20) as pool:
        results = list(pool.decode_all(requests))
    codes = [result.reason if isinstance(result, UnreadableImage) else result for result in results]
    assert codes == [*expected, "changed", "unopenable", "unopenable"]
