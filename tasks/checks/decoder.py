"""The process that opens images for `indexmill.tasks.checks.decoding`: a request on its standard input, a socket, brings one answer there.

It imports little, and ends by itself: when the socket closes, or when a request takes too long, even inside C code.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, NoReturn

from indexmill.storage.digests import content_digest
from indexmill.tasks.checks.images import Limits, UnreadableImage, perceptual_hash, read_image

OUT_OF_MEMORY = 77  # the exit status that says so
_BYTES_A_PIXEL = 32  # the most that a pixel takes on its way to 8 bits, all copies counted
_BYTES_BESIDES = 1 << 30  # libraries loaded later, and what decoders hold besides the pixels


class Request(NamedTuple):
    """An image: its path, and the digest that its bytes had when it was listed."""

    path: str
    content_digest: str


@dataclass(frozen=True)
class Job:
    """What to do with every request: call `decode`, a top-level function, and allow it so many seconds."""

    decode: Callable[[Request, Limits], str]
    limits: Limits
    seconds: float


def picture_group(request: Request, limits: Limits) -> str:
    """The perceptual hash that pictures of one look have in common. Raises UnreadableImage."""
    try:
        content = Path(request.path).read_bytes()
    except OSError as problem:
        raise UnreadableImage("unopenable", problem.strerror or str(problem)) from None
    if content_digest(content) != request.content_digest:
        raise UnreadableImage("changed", "the file changed after it was listed; the next build lists it anew")
    return perceptual_hash(read_image(content, limits))


def main() -> None:
    """Answer requests until the other side closes. The first message is the job, and the first answer None: ready."""
    connection: Connection = Connection(sys.stdin.fileno())
    job: Job = connection.recv()
    _limit_memory(job.limits)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send(None)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # from here on all is said in answers; libraries that complain are not heard
    try:
        while True:
            connection.send(_answer(job, connection.recv()))
    except (EOFError, ConnectionError):
        return


def _answer(job: Job, request: Request) -> str | UnreadableImage:
    signal.setitimer(signal.ITIMER_REAL, job.seconds)  # nobody handles SIGALRM, so it ends the process
    try:
        return job.decode(request, job.limits)
    except UnreadableImage as problem:
        return problem
    except MemoryError:
        _give_up()
    except Exception as problem:
        return UnreadableImage("decoder_crash", f"{type(problem).__name__}: {problem}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _give_up() -> NoReturn:
    os._exit(OUT_OF_MEMORY)  # what is left of the memory may not carry an answer


def _limit_memory(limits: Limits) -> None:
    """No more address space than the largest image allowed can need. Only Linux says what is taken already."""
    taken = Path("/proc/self/statm")
    if limits.max_pixels < 1 << 40 and taken.exists():
        most = int(taken.read_text().split()[0]) * resource.getpagesize() + int(limits.max_pixels) * _BYTES_A_PIXEL + _BYTES_BESIDES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main()
