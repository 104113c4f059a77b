"""Decoders that really misbehave. The path of a request selects how; any other path is its own result."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from indexmill.tasks.validation.decoder_worker import DecodeRequest
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage


def misbehave(request: DecodeRequest, limits: ImageLimits) -> str:
    """Hang, crash, exhaust memory, fail or refuse, as the path says."""
    match request.location:
        case "hang":
            time.sleep(3600)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "abort":
            os.abort()
        case "leave":
            os._exit(3)
        case "exhaust-memory":
            return str(len(bytearray(4 << 30)))  # more than the limit, but less than most machines have
        case "fail":
            raise KeyError("a bug")
        case "refuse":
            raise UnreadableImage("damaged", "as requested")
        case "print":
            os.write(2, b"a library complains\n")
            os.write(1, b"and prints\n")
    return request.location


def crash_once(request: DecodeRequest, limits: ImageLimits) -> str:
    """Create the path and crash if it does not exist yet."""
    path = Path(request.location)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def get_process_id(request: DecodeRequest, limits: ImageLimits) -> str:
    """Return the id of the worker process."""
    time.sleep(0.01)
    return str(os.getpid())
