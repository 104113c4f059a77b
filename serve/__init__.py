"""Search published snapshots from Python (`open_index`), over HTTP (`indexmill.serve.http.server`) or in a browser.

This package only reads what a build has published, and does not depend on how a build runs.
"""

from __future__ import annotations

from indexmill.serve.index import OpenIndex, SearchResult, SearchResults, open_index

__all__ = ["OpenIndex", "SearchResult", "SearchResults", "open_index"]
