"""URLs of files and folders: what they are, what they name, and what must not be shown of them."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, quote, unquote, urlsplit

from indexmill.storage.errors import InputError

WEB_SCHEMES = frozenset({"http", "https"})
STORE_SCHEMES = frozenset({"s3", "gs", "az"})
MAGIC = re.compile(r"[*?\[]")


def is_url(location: str) -> bool:
    """Whether a location is in an object store or behind a web address, and not on disk."""
    return _get_scheme(location) in WEB_SCHEMES | STORE_SCHEMES


def is_object_url(location: str) -> bool:
    """Whether a location is in an object store."""
    return _get_scheme(location) in STORE_SCHEMES


def has_wildcard(url: str) -> bool:
    """Whether a URL is a pattern. A web address never is: its servers list nothing, and `?` is no wildcard there."""
    return _get_scheme(url) in STORE_SCHEMES and bool(MAGIC.search(url))


def join_url(base: str, name: str) -> str:
    """Return the URL of a path relative to a folder's URL; names are quoted for web addresses."""
    is_web = _get_scheme(base) in WEB_SCHEMES
    return f"{base.rstrip('/')}/{quote(name) if is_web else name}"


def split_url(url: str, where: str) -> tuple[str, str, str]:
    """Return the scheme, the bucket or host as a URL, and the key.

    Raises:
        InputError: The URL holds what may be a secret (a user, a password, a query), or names nothing.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    host, _, key = rest.partition("/")
    is_web = scheme in WEB_SCHEMES
    has_secret = "@" in host or (is_web and ("?" in key or "#" in key))
    if not host or has_secret or scheme not in WEB_SCHEMES | STORE_SCHEMES or (is_web and not key):
        raise InputError(
            "this URL cannot be read",
            where=where,
            expected="s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY or https://HOST/PATH, without user, password or query",
            got=redact(url),
            next_step="credentials and endpoint belong in the environment, not in the URL",
        )
    return scheme, f"{scheme}://{host}", unquote(key) if is_web else key


def split_any_url(url: str) -> SplitResult:
    """Split a URL that may come from a row. One with a host that cannot be one has a scheme and a path alone."""
    try:
        return urlsplit(url)
    except ValueError:
        scheme, _, rest = url.partition("://")
        return SplitResult(scheme.lower(), "", rest.partition("?")[0], "", "")


def redact(text: str) -> str:
    """Remove what may be secret from a message about a URL: user names, passwords, queries and signatures."""
    text = re.sub(r"(://)[^/@\s]+@", r"\1***@", text)
    return re.sub(r"\?[^\s)\"']+", "?***", text)


def _get_scheme(location: str) -> str:
    """Return the scheme, empty for a path. Unlike `urlsplit`, it raises nothing for a host that is none."""
    scheme, separator, _ = location.partition("://")
    return scheme.lower() if separator else ""


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Translate a pattern of keys: `**/` is any number of folders, `*` and `?` stay within a name, `[…]` is a set."""
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", pattern, flags=re.S)
    fixed = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = [
        fixed.get(token) or ("[^" + token[2:] if token.startswith("[!") else token if len(token) > 1 else re.escape(token))
        for token in tokens
    ]
    return re.compile("".join(parts), flags=re.S)
