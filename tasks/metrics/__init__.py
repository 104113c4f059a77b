"""Metrics: pure functions from arrays to numbers. They import no storage, configuration, tables or index files."""
