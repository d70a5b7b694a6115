"""Checks an fsspec URL and its options, and returns how to open the filesystem."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from fsbackup.errors import ConfigError
from fsbackup.redact import hide, hide_misplaced

#: Protocols with a backend type of their own, which does more than fsspec can.
_OTHER_TYPES = {"s3": "s3, r2 or b2", "s3a": "s3, r2 or b2", "file": "local", "local": "local"}
#: Filesystems that wrap another one and may return cached data, and fsbackup itself.
_WRAPPERS = frozenset({"blockcache", "cached", "filecache", "simplecache", "fsbackup"})
#: Options that errors may show. Every other option may be a secret.
_PUBLIC_OPTIONS = frozenset({"host", "hostname", "port", "protocol", "user", "username", "share", "timeout"})
_PLACEHOLDER = "***"


@dataclass(frozen=True)
class Address:
    """Where a generic backend keeps its objects.

    Attributes
    ----------
    protocol
        The URL's scheme.
    root
        The base directory in the filesystem's own form, without a trailing slash.
    location
        The URL without secrets.
    open
        Opens a new filesystem; blocking, and it may connect. Only this closure holds the options.
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
        When the URL is invalid, its protocol has a backend type of its own, it chains filesystems, its path has
        pattern characters, or the protocol's package is not installed.
    """
    hide_misplaced(url)
    hide(options)
    protocol = _protocol(url)
    filesystem_class = _filesystem_class(protocol)
    root = str(filesystem_class._strip_protocol(url)).rstrip("/")
    if re.search(r"[*?\[\]]", root):
        raise ConfigError(
            f"the path {root!r} has pattern characters, which some filesystems expand",
            hint="use a directory without * ? [ ]",
        )
    arguments = {**filesystem_class._get_kwargs_from_urls(url), **(options or {})}
    hidden = _secrets(arguments)

    def scrub(text: str) -> str:
        for secret in hidden:
            text = text.replace(secret, _PLACEHOLDER)
        return text

    def open_filesystem() -> Any:
        try:
            return _open(filesystem_class, arguments)
        except TypeError as error:
            text = scrub(str(error))
        raise ConfigError(f"{protocol}:// does not take these options: {text}")

    return Address(protocol, root, _without_secrets(url), open_filesystem, scrub)


def _protocol(url: str) -> str:
    protocol, separator, _ = url.partition("://")
    if not separator or not protocol:
        raise ConfigError(f"{_without_secrets(url)!r} is not an fsspec URL", hint="write protocol://host/path")
    if "::" in url:
        raise ConfigError(
            "a chain of filesystems ('::') cannot store backups: a filesystem in between may return cached data",
            hint="use the URL of the filesystem itself",
        )
    if protocol in _OTHER_TYPES:
        raise ConfigError(
            f"{protocol}:// has a backend type of its own", hint=f"use type {_OTHER_TYPES[protocol]}"
        )
    if protocol in _WRAPPERS:
        raise ConfigError(f"{protocol}:// wraps another filesystem", hint="use the URL of that filesystem")
    return protocol


def _filesystem_class(protocol: str) -> Any:
    # fsspec is imported here, not above: importing `fsbackup.backends` for another store must not load it.
    if protocol == "ftp":
        from fsbackup.stores.generic.ftp import StrictFTPFileSystem

        return StrictFTPFileSystem
    import fsspec

    try:
        return fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        raise ConfigError(f"fsspec has no protocol {protocol!r}", hint="check the URL") from error
    except ImportError as error:
        hint = 'pip install "fsbackup[sftp]"' if protocol in ("sftp", "ssh") else "install the package"
        raise ConfigError(f"{protocol}:// needs a package that is not installed: {error}", hint=hint) from error


def _open(filesystem_class: Any, arguments: Mapping[str, Any]) -> Any:
    """Return a new filesystem that no other user of fsspec shares, without a listings cache.

    It is made as fsspec's metaclass makes one, except that fsspec's own configuration (variables and files of this
    machine) adds no argument: it is not meant for a backup's destination.
    """
    filesystem = type.__call__(filesystem_class, **arguments)
    filesystem._fs_token_, filesystem.storage_args = secrets.token_hex(16), ()
    filesystem.storage_options = dict(arguments)
    if filesystem.async_impl and filesystem.mirror_sync_methods:
        from fsspec.asyn import mirror_sync_methods

        mirror_sync_methods(filesystem)
    # Not an argument: some filesystems pass unknown arguments to their client, which refuses them.
    if hasattr(filesystem, "dircache"):
        filesystem.dircache.use_listings_cache = False
    return filesystem


def _without_secrets(url: str) -> str:
    """Return the URL without its password and without its query, which may hold tokens."""
    location = url.partition("?")[0]
    try:
        password = urlsplit(location).password
    except ValueError:
        password = None
    return location.replace(f":{password}@", f":{_PLACEHOLDER}@", 1) if password else location


def _secrets(options: Any, name: str = "") -> list[str]:
    """Return the texts in `options` that may be secrets, the longest first."""
    found: set[str] = set()
    if isinstance(options, Mapping):
        for key, value in options.items():
            found.update(_secrets(value, str(key)))
    elif isinstance(options, (list, tuple, set, frozenset)):
        for value in options:
            found.update(_secrets(value, name))
    elif isinstance(options, (str, bytes)) and options and name not in _PUBLIC_OPTIONS:
        found.add(options if isinstance(options, str) else options.decode("utf-8", "replace"))
    return sorted(found, key=len, reverse=True)
