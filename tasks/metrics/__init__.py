"""Metrics: pure functions from plain arrays to numbers. They know no storage, no tables and no index files."""
