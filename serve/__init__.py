"""Asking published snapshots: from Python (`open_index`), over HTTP (`indexmill.serve.server`), in a browser (`serve/page/`).

It reads what a build has published and changes nothing; it knows nothing of how a build runs.
"""

from __future__ import annotations

from indexmill.serve.opening import Answer, OpenIndex, Result, open_index

__all__ = ["Answer", "OpenIndex", "Result", "open_index"]
