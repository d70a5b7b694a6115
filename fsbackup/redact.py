"""Masks secrets in all that leaves the process: by value those that are known, and by shape the others.

Whoever gets a secret says so with `hide`: the configuration, a backend, a proxy. `redact` is applied at the edges:
in the text of every `FsbackupError`, in log lines and tracebacks, and in what the commands print. Keys are printed
as they are: a word in one that happens to be a password must not make it another key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

MASK = "**********"

#: Shorter strings are not masked: they occur inside ordinary words, and are no useful secret.
_MIN_LENGTH = 4
#: Shorter ones are masked as whole words only: a password may be an ordinary word.
_MIN_ANYWHERE = 12
#: Filesystem options that are not secret, and whose values are often parts of paths.
_PUBLIC_OPTIONS = frozenset({"host", "hostname", "port", "user", "username", "protocol", "share", "timeout"})
#: Fields of JSON with a key or a path.
_NAMES = frozenset({"key", "path", "target", "directory", "prefix"})

_SHAPES = tuple(
    (re.compile(pattern, flags), replacement)
    for pattern, flags, replacement in (
        # The user may be shown, the password not: //user:password@host
        (r"(//[^/\s@:]*:)(?!\*+@)[^/\s@]+@", 0, rf"\g<1>{MASK}@"),
        (r"((?:proxy-)?authorization['\"]?\s*[:=]\s*['\"]?)[^'\"\r\n]+", re.IGNORECASE, rf"\g<1>{MASK}"),
        (
            r"(x-amz-(?:signature|credential|security-token)['\"]?\s*[:=]\s*['\"]?)[^&\s'\",<]+",
            re.IGNORECASE,
            rf"\g<1>{MASK}",
        ),
        (r"(\bsignature=)[0-9a-f]{16,}", re.IGNORECASE, rf"\g<1>{MASK}"),
        (r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", 0, MASK),  # access keys of AWS
        (r"\bK00[0-9][A-Za-z0-9+/]{27}(?![A-Za-z0-9+/])", 0, MASK),  # application keys of Backblaze
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL, MASK),
        # The same without its first line, which starts with a dash: a shell that splits it makes it other words.
        (r"b3BlbnNzaC1rZXktdjE[A-Za-z0-9+/=\s]*", 0, MASK),
        (r"AGE-(?:SECRET-KEY|PLUGIN)-[0-9A-Z-]{2,}", 0, MASK),
        # age takes them in small letters, too; what is shorter is the name of a file or a program.
        (r"age-(?:secret-key|plugin)-[0-9a-z-]*1[0-9a-z]{30,}", 0, MASK),
    )
)
#: One look for all shapes: most texts have none.
_MAY_HAVE_SHAPE = re.compile(
    r"//|authorization|x-amz-|signature=|AKIA|ASIA|K00|PRIVATE KEY|b3BlbnNzaC1|AGE-SECRET|AGE-PLUGIN",
    re.IGNORECASE,
)
#: What no name of a bucket, region or host looks like: letters of both cases with digits, or long hexadecimal.
_LOOKS_SECRET = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9+/=_.~-]{16,}|[0-9a-fA-F]{40,}")

#: Replaced as a whole, since any thread may add to it.
_hidden: frozenset[str] = frozenset()


def hide(value: Any) -> None:
    """Mask every text in `value` from now on, as it is and as it appears in URLs, reprs and JSON."""
    global _hidden
    if isinstance(value, Mapping):
        for name, each in value.items():
            if not is_public_option(name):
                hide(each)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            hide(each)
    elif isinstance(value, bytes):
        hide(value.decode("utf-8", "replace"))
    elif isinstance(value, str) and len(value) >= _MIN_LENGTH and value not in _hidden:
        quoted = quote(value, safe="", errors="surrogateescape")
        _hidden |= {value, quoted, repr(value)[1:-1], json.dumps(value)[1:-1]}


def is_public_option(name: str) -> bool:
    """Tell whether an option of a filesystem holds no secret."""
    return name in _PUBLIC_OPTIONS


def looks_secret(text: str) -> bool:
    """Tell whether a text that should be a name or an address looks like a key in the wrong field."""
    return _LOOKS_SECRET.fullmatch(text) is not None


def hide_misplaced(value: Any) -> None:
    """Mask a text that should be a name, if it looks like a secret; of a URL its password and each such part."""
    hide(misplaced_secrets(value))


def misplaced_secrets(value: Any) -> list[str]:
    """Return what looks like a secret in a text that should be a name, or a URL without a password."""
    if not isinstance(value, str):
        return []
    try:
        parts = urlsplit(value)
        password = parts.password
    except ValueError:
        return [value]
    if not parts.scheme or not parts.netloc:
        return [value] if looks_secret(value) else []
    user = parts.netloc.rpartition("@")[0].partition(":")[0]
    found = filter(looks_secret, [user, *parts.path.split("/"), *re.split("[=&]", parts.query)])
    return [*([password] if password else []), *found]


def redact(text: str) -> str:
    """Return `text` without the secrets that are known by value or by shape."""
    if hidden := _hidden:
        text = _expression(hidden).sub(MASK, text)
    if _MAY_HAVE_SHAPE.search(text):
        for shape, replacement in _SHAPES:
            text = shape.sub(replacement, text)
    return text


def redact_values(value: Any, *, but: frozenset[str] = _NAMES) -> Any:
    """Return plain JSON types with every text redacted, except in fields of these names: keys and paths."""
    if isinstance(value, Mapping):
        return {
            name: each if name in but and isinstance(each, str) else redact_values(each, but=but)
            for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_values(each, but=but) for each in value]
    return redact(value) if isinstance(value, str) else value


@lru_cache(maxsize=1)
def _expression(values: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(_patterns(sorted(values, key=len, reverse=True))))


def _patterns(longest_first: Iterable[str]) -> Iterable[str]:
    """Yield an expression for each value; a secret may contain a shorter one."""
    for value in longest_first:
        escaped = re.escape(value)
        yield escaped if len(value) >= _MIN_ANYWHERE else rf"(?<!\w){escaped}(?!\w)"
