"""Encoders, sources and measures of one's own, from installed Python packages."""
