"""Exports of published snapshots, one module per format."""
