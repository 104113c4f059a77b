"""Measure how often content groups join what differs (false merges), and separate what is the same (false splits).

    python -m benchmarks.content_groups --images /data/caltech101 --images /data/tiny-imagenet-200

Texts: 5,000 different short texts in each of 20 scripts, of random letters and marks. They are different by construction.
Images: the files of a folder. Two files with equal pixels are one picture; others in one group are counted as merged, real
near duplicates of the data set included.
"""

from __future__ import annotations

import hashlib
import io
import random
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmarks.report import Report, make_parser
from indexmill.tasks.validation.image_reader import UNLIMITED, UnreadableImage, read_image, read_signature
from indexmill.tasks.validation.text_normalization import normalize_for_grouping

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCRIPTS = {
    "Latin": (0x61, 0x17F), "Greek": (0x3B1, 0x3CE), "Cyrillic": (0x430, 0x45F), "Armenian": (0x561, 0x586), "Hebrew": (0x5B0, 0x5EA),
    "Arabic": (0x621, 0x652), "Devanagari": (0x901, 0x94D), "Bengali": (0x981, 0x9CD), "Gurmukhi": (0xA01, 0xA4D),
    "Gujarati": (0xA81, 0xACD),
    "Tamil": (0xB82, 0xBCD), "Telugu": (0xC01, 0xC4D), "Kannada": (0xC81, 0xCCD), "Malayalam": (0xD01, 0xD4D), "Thai": (0xE01, 0xE4E),
    "Georgian": (0x10D0, 0x10F0), "Khmer": (0x1780, 0x17D2), "Hiragana": (0x3041, 0x3096),
    "Han": (0x4E00, 0x5E00), "Hangul": (0xAC00, 0xB000),
}  # fmt: skip
TEXTS_PER_SCRIPT = 5000
SIGNS = ["+", "#", "%", "$", "5", "-5", "1.5", "->", "C++"]
SAME_TEXT: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "quoted": lambda text: f"“{text}”",
    "full stop": lambda text: text + ".",
    "spaces": lambda text: f"  {text} ".replace(" ", "\u00a0 "),
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "brackets": lambda text: f"({text})",
}


def _reencode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


SAME_IMAGE: dict[str, Callable[[Image.Image], bytes]] = {
    "PNG": lambda image: _reencode(image, "PNG"),
    "JPEG 95": lambda image: _reencode(image, "JPEG", quality=95),
    "JPEG 75": lambda image: _reencode(image, "JPEG", quality=75),
    "WebP 80": lambda image: _reencode(image, "WEBP", quality=80),
    "half the size": lambda image: _reencode(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS), "PNG"),
    "twice the size": lambda image: _reencode(image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC), "PNG"),
}


def make_texts() -> list[str]:
    """Make different texts: words of letters and marks of one script, some with a sign or a number."""
    draw, texts = random.Random(0), {}
    for first, last in SCRIPTS.values():
        letters = [chr(code) for code in range(first, last + 1) if unicodedata.category(chr(code)) in ("Ll", "Lo", "Mn", "Mc")]
        made = 0
        while made < TEXTS_PER_SCRIPT:
            words = ["".join(draw.choices(letters, k=draw.randint(2, 5))) for _ in range(draw.randint(1, 2))]
            text = " ".join([*words, *(draw.sample(SIGNS, 1) if draw.random() < 0.3 else [])])
            key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
            if key not in texts:
                texts[key] = text
                made += 1
    return list(texts.values())


def measure_texts() -> dict[str, Any]:
    """Print the rates of texts; returns counts and the share split by each change."""
    texts = make_texts()
    groups = {text: normalize_for_grouping(text) or text for text in texts}
    merged = len(texts) - len(set(groups.values()))
    print(f"{len(texts):,} texts, {merged:,} merged")
    splits = {}
    for name, change in SAME_TEXT.items():
        split = sum((normalize_for_grouping(change(text)) or change(text)) != group for text, group in groups.items())
        splits[name] = split / len(texts)
        print(f"  {name}: {split:,} split ({split / len(texts):.2%})")
    return {"title": f"{len(texts):,} texts", "count": len(texts), "merged": merged, "splits": splits}


def measure_images(folder: Path, sample: int) -> dict[str, Any]:
    """Print the rates of the images below a folder; returns counts and the share split by each change."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    groups: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        try:
            content = path.read_bytes()
            groups[read_signature(content, UNLIMITED).group].add(hashlib.sha256(read_image(content, UNLIMITED).tobytes()).hexdigest())
        except UnreadableImage:
            continue
    pictures = sum(len(group) for group in groups.values())
    print(f"{folder}: {pictures:,} pictures, {pictures - len(groups):,} merged")
    chosen = random.Random(0).sample(paths, min(sample, len(paths)))
    images = [(read_signature(path.read_bytes(), UNLIMITED), read_image(path.read_bytes(), UNLIMITED)) for path in chosen]
    splits = {}
    for name, change in SAME_IMAGE.items():
        copies = [(signature, read_signature(change(image), UNLIMITED)) for signature, image in images]
        split = [(a, b) for a, b in copies if a.group != b.group]
        far = sum((int(a.perceptual_hash, 16) ^ int(b.perceptual_hash, 16)).bit_count() > 12 for a, b in split)
        splits[name] = len(split) / len(copies)
        print(f"  {name}: {len(split)} of {len(copies)} split ({splits[name]:.1%}), of them {far} not within leak_distance 12")
    return {"title": folder.name, "count": pictures, "merged": pictures - len(groups), "splits": splits}


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw the share of copies that are not recognized as the same, one panel per data set."""
    from benchmarks.plotting import draw_bars, get_bars_height, split_panels

    data_sets = results["data_sets"]
    height = get_bars_height(max(len(data_set["splits"]) for data_set in data_sets)) + 0.2
    for axes, data_set in zip(split_panels(figure, len(data_sets), height=height), data_sets, strict=True):
        shares = {name: 100 * share for name, share in data_set["splits"].items()}
        draw_bars(axes, shares, unit="% of copies in another group", text="{:.2f} %")
        axes.set_title(f"{data_set['title']}: {100 * data_set['merged'] / data_set['count']:.2f} % merged")


def main() -> None:
    """Measure texts, and the images of each folder."""
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=Path, action="append", default=[], help="a folder of images; may be repeated")
    parser.add_argument("--sample", type=int, default=400, help="images that are changed")
    options = parser.parse_args()
    report = Report(options)
    data_sets = [measure_texts(), *(measure_images(folder, options.sample) for folder in options.images)]
    report.finish({"data_sets": data_sets}, plot)


if __name__ == "__main__":
    main()
