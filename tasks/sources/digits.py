"""Write scikit-learn's handwritten digits as a folder of PNG files with one subfolder per class, for the demo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from indexmill.storage.root import Root
from indexmill.tasks.progress import track

IMAGE_SIDE = 64
DIGITS = 600  # of 1,797: enough to see what the index finds, and a third of the time to encode


def write_digits(root: Root) -> Path:
    """Write the first 600 digits as `<label>/<number>.png` (64 x 64, gray) under the root, once.

    Returns:
        The folder.
    """
    folder = root.source("digits", "2")
    if any(folder.glob(f"*/{DIGITS - 1:04d}.png")):  # the last one, so all are there
        return folder
    from sklearn.datasets import load_digits  # slow to import: only the demo pays for it

    digits = load_digits()
    with track("writing digits", DIGITS) as advance:
        for number, (pixels, label) in enumerate(zip(digits.images[:DIGITS], digits.target[:DIGITS], strict=True)):
            gray = Image.fromarray((255 - pixels * (255 / 16)).round().astype(np.uint8))
            with root.replace_atomically(folder / str(label) / f"{number:04d}.png") as temporary:
                gray.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC).save(temporary)
            advance(1)
    return folder
