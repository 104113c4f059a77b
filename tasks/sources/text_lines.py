"""Read the lines of a text file in the encodings that programs write, and decode JSON and CSV records from them."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

SAMPLE_BYTES = 4096
MAX_LINE_CHARACTERS = 64_000_000
ESCAPE_BYTES = "indexmill-escape"
BYTE_ORDER_MARKS = (  # UTF-32 first: its mark starts like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class LineReader:
    """The lines of a file, from 1, with their line ends. Lines may be put back. Invalid bytes become lone surrogates."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._returned: deque[str] = deque()
        self.number = 0  # of the line that was read last

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else self._file.readline(MAX_LINE_CHARACTERS)
        if not line:
            raise StopIteration
        self.number += 1
        # An encoding without a mark of its own, such as utf-16-le, leaves the file's in place.
        return line.removeprefix("\ufeff") if self.number == 1 else line

    def put_back(self, lines: list[str]) -> None:
        """Return the last lines, to be read again."""
        self._returned.extendleft(reversed(lines))
        self.number -= len(lines)


@contextmanager
def open_lines(path: Path, encoding: str | None = None) -> Iterator[LineReader]:
    """Open a text file, compressed or not.

    Args:
        path: The file.
        encoding: The encoding; by default that of the byte-order mark, UTF-16 if every second byte is 0, else UTF-8.
    """
    with _open_bytes(path) as raw, io.BufferedReader(raw, 1 << 16) as content:
        chosen = encoding or _detect_encoding(content.peek(SAMPLE_BYTES)[:SAMPLE_BYTES])
        with io.TextIOWrapper(content, chosen, errors=ESCAPE_BYTES, newline="") as text:
            yield LineReader(text)


def _escape_bytes(error: UnicodeError) -> tuple[str, int]:
    """Decode each invalid byte as the lone surrogate U+DC00 + byte. `surrogateescape` refuses bytes below 0x80, which UTF-16 has."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(ESCAPE_BYTES, _escape_bytes)


def find_invalid_text(text: str) -> str:
    """Return why a text cannot be stored, or an empty text: it holds bytes of another encoding, or half a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            return f"the byte 0x{code - 0xDC00:02x} is not UTF-8 (set dataset.encoding, such as cp1252, if the file is not UTF-8)"
        return f"\\u{code:04x} is half a character: a lone surrogate"
    return ""


def escape_text(text: str) -> str:
    """Return a text that can be stored: a lone surrogate, which may stand for an invalid byte, becomes its escape."""
    return text.encode(errors="backslashreplace").decode()


def shorten(text: str, length: int = 300) -> str:
    """Put a text on one line, without its middle if it is long."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length // 2]} … {text[-length // 2 :]}"


@contextmanager
def _open_bytes(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        unpacked = _decompress(file, start)
        try:
            yield unpacked
        finally:
            unpacked.close()


def _decompress(file: IO[bytes], start: bytes) -> Any:
    """Return the file, unpacked if it starts as a compressed file does."""
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(file)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return pa.CompressedInputStream(file, "zstd")
    return file


def _detect_encoding(sample: bytes) -> str:
    for mark, encoding in BYTE_ORDER_MARKS:
        if sample.startswith(mark):
            return encoding
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if max(even, odd) > len(sample) // 5 and min(even, odd) < max(even, odd) // 8:
        return "utf-16-be" if even > odd else "utf-16-le"
    return "utf-8"
