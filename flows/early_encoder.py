"""Start the encoding process before the flow, so that it loads the model while Prefect's server starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from indexmill.configs.models import PipelineConfig
from indexmill.storage.root import Root
from indexmill.tasks.encoding import identify
from indexmill.tasks.encoding.precision import find_expected_model
from indexmill.tasks.encoding.process import EncoderProcess

# Not an argument of the flow: Prefect would have to copy the process.
_early_encoder: ContextVar[EncoderProcess | None] = ContextVar("early_encoder", default=None)


@contextmanager
def start_encoder_early(config: PipelineConfig, root: Root, *, is_first: bool = False) -> Iterator[None]:
    """Start to load the encoder for the build that runs in the block; the process ends with the block at the latest.

    Args:
        config: The pipeline.
        root: The storage root.
        is_first: Only import the encoder's libraries: the first build has yet to find the model, and to download it.

    Raises:
        IndexmillError: The encoder cannot be identified.
    """
    model = None if is_first else find_expected_model(root, config.encoder, identify(config.encoder))
    with EncoderProcess() as process:
        process.preload(config.encoder, model)
        token = _early_encoder.set(process)
        try:
            yield
        finally:
            _early_encoder.reset(token)


def take_early_encoder() -> EncoderProcess | None:
    """Return the process that was started for this build, if there is one. Whoever takes it stops it."""
    process = _early_encoder.get()
    _early_encoder.set(None)
    return process
