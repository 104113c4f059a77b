"""A decoder that hangs, crashes or swells costs one image; the others keep their answers and their order."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from broken_files import broken_files
from misbehaving_decoders import crash_once, moody, process
from valid_files import valid_files

from indexmill.storage.digests import content_digest
from indexmill.storage.errors import IndexmillError
from indexmill.tasks.validation import decoder_pool
from indexmill.tasks.validation.decoder_pool import MAX_IN_FLIGHT, DecoderPool
from indexmill.tasks.validation.decoder_worker import DecodeRequest
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage, compute_perceptual_hash, read_image

LIMITS = ImageLimits(max_pixels=1_000_000, min_side=2, max_aspect_ratio=50)


@pytest.fixture(autouse=True)
def no_child_left() -> Iterator[None]:
    """No test leaves a process behind, not even a dead one."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.fixture
def many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process starts with the first."""
    monkeypatch.setattr(decoder_pool, "REQUESTS_PER_PROCESS", 0)


def outcomes(paths: list[str], seconds: float = 10, decode: Callable[[DecodeRequest, ImageLimits], str] = moody) -> list[str]:
    """The group of each path, or the reason in brackets."""
    with DecoderPool(LIMITS, timeout_s=seconds, decode=decode) as decoders:
        groups = list(decoders.decode_all(DecodeRequest(path, "") for path in paths))
    return [f"({group.reason})" if isinstance(group, UnreadableImage) else group for group in groups]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("hang", "timeout"),
        ("crash", "decoder_crash"),
        ("abort", "decoder_crash"),
        ("leave", "decoder_crash"),
        ("fail", "decoder_crash"),
        ("swell", "memory"),
        ("refuse", "damaged"),
    ],
)
def test_a_bad_image_costs_itself_alone(path: str, reason: str) -> None:
    """Those before, beside and behind it in the same process are read."""
    paths = [str(number) for number in range(30)]
    paths[7] = path
    expected = [f"({reason})" if each == path else each for each in paths]
    assert outcomes(paths, seconds=1) == expected


def test_bad_images_in_a_row_are_each_given_their_reason(many_processes: None) -> None:
    """Neither the last death nor the last suspicion is held against the next image."""
    paths = ["hang", "crash", "swell", "0", "crash", "crash", "refuse", "fail", "1", "leave", "hang", "2"]
    reasons = {"hang": "(timeout)", "swell": "(memory)", "refuse": "(damaged)"} | dict.fromkeys("012")
    assert outcomes(paths, seconds=1) == [reasons.get(path, "(decoder_crash)") or path for path in paths]


def test_a_message_says_what_happened() -> None:
    """The signal by its name, the limit in seconds, the exception by its type."""
    with DecoderPool(LIMITS, timeout_s=0.5, decode=moody) as decoders:
        crash, hang, fail = map(str, decoders.decode_all(DecodeRequest(path, "") for path in ("crash", "hang", "fail")))
    assert "SIGSEGV" in crash and "0.5 seconds" in hang and "KeyError: 'a bug'" in fail


def test_one_death_is_not_yet_the_image_s_fault(tmp_path: Path) -> None:
    """A process that dies once (killed for memory, spoilt by an earlier image) is replaced, and the image read."""
    assert outcomes([str(tmp_path / name) for name in "abc"], decode=crash_once) == ["a", "b", "c"]


def test_order_is_kept_over_processes(many_processes: None) -> None:
    """Answers come in the order of the requests, whichever process gives them."""
    paths = [str(number) for number in range(2000)]
    assert outcomes(paths) == paths


def test_no_more_than_so_many_are_under_way(many_processes: None) -> None:
    """Requests are taken as answers are used, never all at once, also behind one that hangs."""
    taken = 0

    def requests() -> Iterator[DecodeRequest]:
        nonlocal taken
        for number in range(3000):
            taken += 1
            yield DecodeRequest("hang" if number == 20 else str(number), "")

    with DecoderPool(LIMITS, timeout_s=1, decode=moody) as decoders:
        for used, _ in enumerate(decoders.decode_all(requests())):
            assert taken - used <= MAX_IN_FLIGHT + 1


def test_few_images_take_one_process_and_many_take_all() -> None:
    """A second process starts once there is enough to do, and both serve the batches that follow."""
    assert len(set(outcomes(["x"] * 20, decode=process))) == 1
    assert len(set(outcomes(["x"] * 400, decode=process))) == 2
    with DecoderPool(LIMITS, timeout_s=10, decode=process) as decoders:
        first, second = (set(decoders.decode_all([DecodeRequest("x", "")] * 3)) for _ in range(2))
    assert first == second


def test_no_work_starts_no_process() -> None:
    """A pool that is asked nothing costs nothing."""
    before = psutil.Process().children()
    with DecoderPool(LIMITS, timeout_s=10) as decoders:
        assert list(decoders.decode_all([])) == []
        assert psutil.Process().children() == before


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_an_exception_ends_the_processes(problem: type[BaseException]) -> None:
    """Whatever interrupts the caller, a hanging decoder does not outlive it."""
    start = time.monotonic()
    with pytest.raises(problem), DecoderPool(LIMITS, timeout_s=60, decode=moody) as decoders:
        for group in decoders.decode_all(DecodeRequest(path, "") for path in ("0", "1", "hang")):
            if group == "1":
                raise problem
    assert time.monotonic() - start < 10


def test_leaving_a_batch_early_spoils_no_later_one() -> None:
    """Answers that nobody waited for do not turn up in the next batch."""
    with DecoderPool(LIMITS, timeout_s=10, decode=moody) as decoders:
        batch = decoders.decode_all(DecodeRequest(str(number), "") for number in range(100))
        assert next(batch) == "0"
        batch.close()  # type: ignore[attr-defined]
        assert list(decoders.decode_all([DecodeRequest("other", "")])) == ["other"]


def test_a_killed_caller_leaves_no_process(tmp_path: Path) -> None:
    """The processes end by themselves when the other side is gone without a word."""
    code = (
        "import os, signal, sys; sys.path[:0] = sys.argv[1:]\n"
        "from misbehaving_decoders import process\nfrom indexmill.tasks.validation.decoder_pool import DecoderPool\n"
        "from indexmill.tasks.validation.decoder_worker import DecodeRequest\n"
        "from indexmill.tasks.validation.image_reader import ImageLimits\n"
        "pool = DecoderPool(ImageLimits(), timeout_s=5, decode=process); print(*pool.decode_all([DecodeRequest('x', '')]), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    said = subprocess.run([sys.executable, "-c", code, *sys.path], capture_output=True, text=True)
    orphan = int(said.stdout)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(orphan) and psutil.Process(orphan).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


def test_libraries_that_complain_are_not_heard(capfd: pytest.CaptureFixture[str]) -> None:
    """What a decoder writes to the terminal does not reach it, nor mixes with the answers."""
    assert outcomes(["shout", "0"]) == ["shout", "0"]
    assert capfd.readouterr() == ("", "")


def test_a_process_that_cannot_start_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is nobody's image's fault."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(IndexmillError, match="failed to start"):
        outcomes(["0"])


def test_the_process_imports_little() -> None:
    """It starts in a fraction of a second since neither Prefect nor what needs it is loaded."""
    code = "import sys, indexmill.tasks.validation.decoder_worker; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert not {"prefect", "torch", "polars", "pyarrow", "pandera", "pydantic", "scipy", "pandas"} & set(said.stdout.split())


def test_every_file_of_a_folder_is_accounted_for(tmp_path: Path) -> None:
    """Each kind of file gives the group of the picture read here, or the same reason; changed and missing files say so."""
    requests, expected = [], []
    for kind in [*valid_files(), *broken_files()]:
        (tmp_path / kind.name).write_bytes(kind.content)
        requests.append(DecodeRequest(str(tmp_path / kind.name), content_digest(kind.content)))
        expected.append(kind.reason or compute_perceptual_hash(read_image(kind.content, LIMITS)))
    requests += [requests[0]._replace(content_digest="0" * 32), DecodeRequest(str(tmp_path / "none"), ""), DecodeRequest(str(tmp_path), "")]
    with DecoderPool(LIMITS, timeout_s=20) as decoders:
        groups = list(decoders.decode_all(requests))
    found = [group.reason if isinstance(group, UnreadableImage) else group for group in groups]
    assert found == [*expected, "changed", "unopenable", "unopenable"]
