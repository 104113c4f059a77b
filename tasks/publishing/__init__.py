"""Publish a snapshot: served shards, rejects, gate, manifest and report."""
