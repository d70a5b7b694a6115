"""An fsspec URL and its options, checked, and turned into a recipe for opening the filesystem."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import fsspec

from fsbackup.errors import ConfigError

#: Types of their own exist for these, which do more than fsspec can.
_OWN_TYPES = {"s3": "s3, r2 or b2", "s3a": "s3, r2 or b2", "file": "local", "local": "local"}
#: These stand before another filesystem and answer from memory, or are this package itself.
_INDIRECT = frozenset({"blockcache", "cached", "filecache", "simplecache", "fsbackup"})
#: What a person needs to read in an error. Every other option may be a secret.
_HARMLESS = frozenset({"host", "hostname", "port", "protocol", "user", "username", "share", "timeout"})
_PLACEHOLDER = "***"


@dataclass(frozen=True)
class Address:
    """Where a generic backend keeps its objects.

    Attributes
    ----------
    protocol
        The URL's scheme.
    root
        The base directory as the filesystem writes it, without a slash at its end.
    location
        The URL without secrets.
    open
        Opens the filesystem anew; blocking, and it may connect. The options live in it and nowhere else.
    scrub
        Removes every secret from a text.
    """

    protocol: str
    root: str
    location: str
    open: Callable[[], Any] = field(repr=False)
    scrub: Callable[[str], str] = field(repr=False)


def parse(url: str, options: Mapping[str, Any] | None) -> Address:
    """Return the address of a URL.

    Raises
    ------
    ConfigError
        For a URL that is none, names a protocol that has a type of its own, chains filesystems or has pattern
        characters in its path, and when the protocol's package is not installed.
    """
    protocol = _protocol(url)
    kind = _filesystem_class(protocol)
    root = str(kind._strip_protocol(url)).rstrip("/")
    if re.search(r"[*?\[\]]", root):
        raise ConfigError(
            f"the path {root!r} has pattern characters, which some filesystems would expand",
            hint="use a directory without * ? [ ]",
        )
    arguments = {**kind._get_kwargs_from_urls(url), **(options or {})}
    secrets = _secrets(arguments)

    def scrub(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, _PLACEHOLDER)
        return text

    def opened() -> Any:
        try:
            return _open(kind, arguments)
        except TypeError as error:
            text = scrub(str(error))
        raise ConfigError(f"{protocol}:// does not take these options: {text}")

    return Address(protocol, root, _shown(url), opened, scrub)


def _protocol(url: str) -> str:
    protocol, separator, _ = url.partition("://")
    if not separator or not protocol:
        raise ConfigError(f"{_shown(url)!r} is not an fsspec URL", hint="write protocol://host/path")
    if "::" in url:
        raise ConfigError(
            "a chain of filesystems ('::') cannot keep backups: what is in between could answer for the backend",
            hint="give the URL of the filesystem itself",
        )
    if protocol in _OWN_TYPES:
        raise ConfigError(f"{protocol}:// has a type of its own", hint=f"use type {_OWN_TYPES[protocol]}")
    if protocol in _INDIRECT:
        raise ConfigError(f"{protocol}:// stands before another filesystem", hint="give that one's own URL")
    return protocol


def _filesystem_class(protocol: str) -> Any:
    if protocol == "ftp":
        from fsbackup.stores.generic.ftp import StrictFTPFileSystem

        return StrictFTPFileSystem
    try:
        return fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        raise ConfigError(f"fsspec knows no protocol {protocol!r}") from error
    except ImportError as error:
        hint = 'pip install "fsbackup[sftp]"' if protocol in ("sftp", "ssh") else "install that package"
        raise ConfigError(f"{protocol}:// needs a package that is not installed: {error}", hint=hint) from error


def _open(kind: Any, arguments: Mapping[str, Any]) -> Any:
    """Return a filesystem of our own: not shared with other users of fsspec, and without remembered listings."""
    filesystem = kind(**arguments, skip_instance_cache=True)
    # Not an argument: some filesystems hand what they do not know to their client, which refuses it.
    if hasattr(filesystem, "dircache"):
        filesystem.dircache.use_listings_cache = False
    return filesystem


def _shown(url: str) -> str:
    """Return the URL without a password and without a query, in which tokens travel."""
    bare = url.partition("?")[0]
    try:
        password = urlsplit(bare).password
    except ValueError:
        password = None
    return bare.replace(f":{password}@", f":{_PLACEHOLDER}@", 1) if password else bare


def _secrets(options: Any, name: str = "") -> list[str]:
    """Return the texts in `options` that may be secrets, the longest first."""
    found: set[str] = set()
    if isinstance(options, Mapping):
        for key, value in options.items():
            found.update(_secrets(value, str(key)))
    elif isinstance(options, (list, tuple, set, frozenset)):
        for value in options:
            found.update(_secrets(value, name))
    elif isinstance(options, (str, bytes)) and options and name not in _HARMLESS:
        found.add(options if isinstance(options, str) else options.decode("utf-8", "replace"))
    return sorted(found, key=len, reverse=True)
