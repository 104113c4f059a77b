"""Find the target of an encoder of one's own."""

from __future__ import annotations

from indexmill.configs.encoders import PythonEncoderConfig
from indexmill.tasks.extensions.targets import Target, find_target


def find_encoder_target(config: PythonEncoderConfig) -> Target:
    """Return the target of `encoder.target`, without importing it. Raises InputError if there is none, or it has no version."""
    return find_target(config.target, group="indexmill.encoders", key="encoder.target")
