"""A name that a file or folder may have, and that something in between may misread."""

from __future__ import annotations

import string

_ASCII = "".join(character for character in string.printable[:95] if character != "/")
# Every printable character of ASCII, what templates, URLs, SQL and shells replace, a line end, and about 200 bytes of UTF-8.
WORST_NAME = f" {_ASCII}{{root}}%20%s$HOME;--\n\\\u00e9e\u0301\u65e5\U0001f600" + "\u00fc" * 36
