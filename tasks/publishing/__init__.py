"""What a snapshot is put together from: the query side, all rejects, the comparison with the live one, the manifest, the report."""
