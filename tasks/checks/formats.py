"""What a file is by its first bytes; names and suffixes are never believed."""

from __future__ import annotations

# The formats that are decoded. Leaving the others out keeps Pillow from starting interpreters (Ghostscript, for EPS).
DECODED = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

_DECODED_START = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_OTHER_START = {
    b"8BPS": "PSD",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\1\0": "ICO",
    b"icns": "ICNS",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    b"gimp xcf": "XCF",
} | {b"P%d%c" % (kind, gap): "Netpbm" for kind in range(1, 8) for gap in b" \n\r\t"}
_BOXED = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIF", b"heix": "HEIF", b"hevc": "HEIF", b"mif1": "HEIF", b"msf1": "HEIF"}


def decoded_format(content: bytes) -> str | None:
    """The format among DECODED that these bytes begin like."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    return _named(content, _DECODED_START)


def other_format(content: bytes) -> str | None:
    """The image format that these bytes begin like, of those that are known and not decoded."""
    if content[4:8] == b"ftyp":
        return _BOXED.get(content[8:12])
    return _named(content, _OTHER_START)


def _named(content: bytes, starts: dict[bytes, str]) -> str | None:
    return next((name for start, name in starts.items() if content.startswith(start)), None)
