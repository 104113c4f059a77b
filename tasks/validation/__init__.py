"""Check items before they are indexed: table rows, image files and near duplicates across the split."""
