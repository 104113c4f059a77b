"""Worker process that decodes images for `indexmill.tasks.validation.decoder_pool`.

It reads one request at a time from its standard input (a socket) and answers each on the same socket. It imports
little, and exits on its own when the socket closes or a request exceeds its time limit, even inside C code."""

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
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage, compute_perceptual_hash, read_image

OUT_OF_MEMORY_STATUS = 77  # the exit status that says so
_BYTES_PER_PIXEL = 32  # the most that a pixel takes on its way to 8 bits, all copies counted
_EXTRA_BYTES = 1 << 30  # libraries loaded later, and what decoders hold besides the pixels


class DecodeRequest(NamedTuple):
    """An image: its path, and the digest that its bytes had when it was listed."""

    path: str
    content_digest: str


@dataclass(frozen=True)
class DecoderConfig:
    """What to do with every request: call `decode`, a top-level function, and allow it so many seconds."""

    decode: Callable[[DecodeRequest, ImageLimits], str]
    limits: ImageLimits
    timeout_s: float


def compute_content_group(request: DecodeRequest, limits: ImageLimits) -> str:
    """The perceptual hash that pictures of one look have in common. Raises UnreadableImage."""
    try:
        content = Path(request.path).read_bytes()
    except OSError as error:
        raise UnreadableImage("unopenable", error.strerror or str(error)) from None
    if content_digest(content) != request.content_digest:
        raise UnreadableImage("changed", "the file changed after it was listed; the next build lists it anew")
    return compute_perceptual_hash(read_image(content, limits))


def main() -> None:
    """Answer requests until the other side closes. The first message is the job, and the first answer None: ready."""
    connection: Connection = Connection(sys.stdin.fileno())
    config: DecoderConfig = connection.recv()
    _limit_memory(config.limits)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send(None)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # from here on all is said in answers; libraries that complain are not heard
    try:
        while True:
            connection.send(_handle_request(config, connection.recv()))
    except (EOFError, ConnectionError):
        return


def _handle_request(config: DecoderConfig, request: DecodeRequest) -> str | UnreadableImage:
    signal.setitimer(signal.ITIMER_REAL, config.timeout_s)  # nobody handles SIGALRM, so it ends the process
    try:
        return config.decode(request, config.limits)
    except UnreadableImage as error:
        return error
    except MemoryError:
        _exit_out_of_memory()
    except Exception as error:
        return UnreadableImage("decoder_crash", f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _exit_out_of_memory() -> NoReturn:
    os._exit(OUT_OF_MEMORY_STATUS)  # what is left of the memory may not carry an answer


def _limit_memory(limits: ImageLimits) -> None:
    """No more address space than the largest image allowed can need. Only Linux says what is taken already."""
    statm_path = Path("/proc/self/statm")
    if limits.max_pixels < 1 << 40 and statm_path.exists():
        max_bytes = (
            int(statm_path.read_text().split()[0]) * resource.getpagesize() + int(limits.max_pixels) * _BYTES_PER_PIXEL + _EXTRA_BYTES
        )
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))


if __name__ == "__main__":
    main()
