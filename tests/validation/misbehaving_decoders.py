"""Decoders that misbehave for real. The path of a request says how; any other path is its own group."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from indexmill.tasks.validation.decoder_worker import DecodeRequest
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage


def moody(request: DecodeRequest, limits: ImageLimits) -> str:
    """Hang, crash, swell, fail or refuse, as the request says."""
    match request.path:
        case "hang":
            time.sleep(3600)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "abort":
            os.abort()
        case "leave":
            os._exit(3)
        case "swell":
            return str(len(bytearray(4 << 30)))  # more than the limit, and less than most machines have
        case "fail":
            raise KeyError("a bug")
        case "refuse":
            raise UnreadableImage("damaged", "as it says")
        case "shout":
            os.write(2, b"a library complains\n")
            os.write(1, b"and prints\n")
    return request.path


def crash_once(request: DecodeRequest, limits: ImageLimits) -> str:
    """Crash at the first request for a path that does not exist yet, and leave it behind."""
    path = Path(request.path)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def process(request: DecodeRequest, limits: ImageLimits) -> str:
    """The process that answers."""
    time.sleep(0.01)
    return str(os.getpid())
