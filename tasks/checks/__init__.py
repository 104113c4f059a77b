"""What makes an item usable: its row, and for an image its bytes."""
