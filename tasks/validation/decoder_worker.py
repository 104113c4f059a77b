"""Worker process that decodes images for `indexmill.tasks.validation.decoder_pool`.

It reads one request at a time from its standard input (a socket) and answers each on the same socket. It imports
little, and exits on its own when the socket closes or a request exceeds its time limit, even inside C code.
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
from typing import NamedTuple

from indexmill.storage.contents import read_content
from indexmill.storage.digests import content_digest
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage, read_signature

OUT_OF_MEMORY_STATUS = 77
_BYTES_PER_PIXEL = 32  # the most memory per pixel during decoding, all copies included
_EXTRA_BYTES = 1 << 30  # for libraries loaded later and for the decoders' own data


class DecodeRequest(NamedTuple):
    """An image to decode: its location (`storage.contents`), and the digest of its bytes when it was listed."""

    location: str
    content_digest: str


@dataclass(frozen=True)
class DecoderConfig:
    """How to handle requests: the top-level function to call, the limits of images, and the seconds per image."""

    decode: Callable[[DecodeRequest, ImageLimits], str]
    limits: ImageLimits
    timeout_s: float


def compute_image_signature(request: DecodeRequest, limits: ImageLimits) -> str:
    """Return the image's content group and perceptual hash, one after the other. Raises UnreadableImage."""
    try:
        content = read_content(request.location)
    except OSError as error:
        raise UnreadableImage("unopenable", error.strerror or str(error)) from None
    if content_digest(content) != request.content_digest:
        raise UnreadableImage("changed", "the file changed after it was listed; the next build lists it again")
    return "".join(read_signature(content, limits))


def main() -> None:
    """Answer requests until the socket closes. The first message is the config; the first answer, None, means ready."""
    connection: Connection = Connection(sys.stdin.fileno())
    config: DecoderConfig = connection.recv()
    _limit_memory(config.limits)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection.send(None)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # silences the libraries; results go through the socket only
    try:
        while True:
            connection.send(_handle_request(config, connection.recv()))
    except (EOFError, ConnectionError):
        return


def _handle_request(config: DecoderConfig, request: DecodeRequest) -> str | UnreadableImage:
    signal.setitimer(signal.ITIMER_REAL, config.timeout_s)  # SIGALRM has no handler, so it ends the process
    try:
        return config.decode(request, config.limits)
    except UnreadableImage as error:
        return error
    except MemoryError:
        os._exit(OUT_OF_MEMORY_STATUS)  # there may be too little memory left to send an answer
    except Exception as error:
        return UnreadableImage("decoder_crash", f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit_memory(limits: ImageLimits) -> None:
    """Limit the address space to what the largest allowed image needs. Only on Linux, which shows the current size."""
    statm_path = Path("/proc/self/statm")
    if limits.max_pixels < 1 << 40 and statm_path.exists():
        used_bytes = int(statm_path.read_text().split()[0]) * resource.getpagesize()
        max_bytes = used_bytes + int(limits.max_pixels) * _BYTES_PER_PIXEL + _EXTRA_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))


if __name__ == "__main__":
    main()
