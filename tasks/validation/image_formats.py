"""Recognize image formats by a file's first bytes, and find out which of them can be decoded here."""

from __future__ import annotations

import functools
from importlib.util import find_spec

# The formats that are decoded. Leaving the others out keeps Pillow from starting interpreters (Ghostscript, for EPS).
SUPPORTED_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "ICO")
_TITLES = {"WEBP": "WebP", "JPEG2000": "JPEG 2000", "HEIF": "HEIC"}  # as people write them
HEIF = "HEIF"  # decoded if pillow-heif is installed
INSTALL_HEIF = "pip install 'indexmill[heif]' -c constraints.txt"

_SUPPORTED_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\0\0\1\0": "ICO",
}
_UNSUPPORTED_SIGNATURES = {
    b"8BPS": "PSD",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"icns": "ICNS",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    b"gimp xcf": "XCF",
} | {b"P%d%c" % (kind, gap): "Netpbm" for kind in range(1, 8) for gap in b" \n\r\t"}
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_MAX_BRANDS = 64


def detect_supported_format(content: bytes) -> str | None:
    """Return the supported format whose signature the bytes start with, if any. HEIF is one only with pillow-heif."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if (container := _detect_iso_image(content)) == "AVIF" or (container and has_heif_decoder()):
        return container
    return _match_signature(content, _SUPPORTED_SIGNATURES)


def detect_unsupported_format(content: bytes) -> str | None:
    """Return the known but unsupported image format whose signature the bytes start with, if any."""
    if _detect_iso_image(content) == HEIF:
        return None if has_heif_decoder() else HEIF
    return _match_signature(content, _UNSUPPORTED_SIGNATURES)


def list_readable_formats(content: bytes) -> tuple[str, ...]:
    """Return Pillow's names of the formats that these bytes may be decoded as."""
    if _detect_iso_image(content) != HEIF or not has_heif_decoder():
        return SUPPORTED_FORMATS
    _register_heif_decoder()
    return (*SUPPORTED_FORMATS, HEIF)


def describe_readable_formats() -> str:
    """Return the names of the formats that are decoded here, for messages."""
    names = (*SUPPORTED_FORMATS, HEIF) if has_heif_decoder() else SUPPORTED_FORMATS
    return ", ".join(_TITLES.get(name, name) for name in names)


def has_heif_decoder() -> bool:
    """Return whether pillow-heif is installed."""
    return find_spec("pillow_heif") is not None


@functools.cache
def _register_heif_decoder() -> None:
    # Imported when the first such image comes: it loads 27 MB of libraries. What is beside the picture stays unread.
    from pillow_heif import register_heif_opener

    register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)


def _detect_iso_image(content: bytes) -> str | None:
    """Return AVIF or HEIF for their containers: by the main brand, or for a brand of both by the compatible ones."""
    if content[4:8] != b"ftyp":
        return None
    main, end = content[8:12], min(int.from_bytes(content[:4]), 16 + 4 * _MAX_BRANDS)
    compatible = {content[at : at + 4] for at in range(16, end, 4)}
    if main in _AVIF_BRANDS or (main in (b"mif1", b"msf1") and compatible & _AVIF_BRANDS):
        return "AVIF"
    return HEIF if main in _HEIF_BRANDS else None


def _match_signature(content: bytes, starts: dict[bytes, str]) -> str | None:
    return next((name for start, name in starts.items() if content.startswith(start)), None)
