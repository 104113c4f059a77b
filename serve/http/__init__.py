"""Serve published snapshots over HTTP."""
