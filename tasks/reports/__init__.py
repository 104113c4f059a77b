"""Render the report of a build as one self-contained HTML file and as Markdown."""
