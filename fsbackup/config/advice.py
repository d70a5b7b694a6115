"""What works, and puts secrets or data at risk: said as a warning when a configuration is loaded."""

from __future__ import annotations

import ipaddress
import logging
import os
import stat
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fsbackup.config.backends import BackendConfig
from fsbackup.config.models import Config
from fsbackup.config.variables import is_reference
from fsbackup.redact import is_public_option

log = logging.getLogger("fsbackup.config")

_CREDENTIALS = ("access_key_id", "secret_access_key", "session_token")
#: What the names of compressed (and encrypted) files end with.
_COMPRESSED = (".gz", ".tgz", ".zst", ".xz", ".bz2", ".lz4", ".zip", ".7z", ".age", ".gpg")
_PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


def warn(source: str, data: Any, config: Config) -> None:
    """Log a warning for each secret that others can read.

    Parameters
    ----------
    source
        The file.
    data
        Its values as they are written there, before variables.
    config
        What they came to.
    """
    if literal := sorted(literal_secrets(data)):
        mode = stat.S_IMODE(os.stat(Path(source).expanduser()).st_mode)
        if mode & stat.S_IROTH:
            _say_once(
                f"{source}: every user of this machine can read the secrets in it ({', '.join(literal)}; mode "
                f"{mode:04o}) - chmod 600 it, or write ${{NAME}} or secret_access_key_file instead"
            )
    for name, backend in config.backends.items():
        url = getattr(backend, "endpoint_url", None)
        if url and url.startswith("http:") and not _is_near(urlsplit(url).hostname or ""):
            _say_once(
                f"{source}: backends.{name}.endpoint_url: without TLS, everybody on the way to "
                f"{urlsplit(url).hostname} can read and change what is stored - write https://"
            )


def _may_ignore_conditions(backend: BackendConfig) -> bool:
    return backend.type == "fsspec" or (backend.type == "s3" and backend.endpoint_url is not None)


def notes(config: Config) -> Iterator[str]:
    """Yield what a valid configuration gives up, for a person who checks it."""
    for name, chosen in config.replication.items():
        count = len(chosen.backends)
        if 2 * chosen.min_copies <= count:
            yield (
                f"replication.{name}: min_copies {chosen.min_copies} is no majority of {count} backends: of two "
                "writers of one key at the same time, or with different backends away, both may be told that "
                "theirs is stored, and one version replaces the other later; with "
                f"min_copies {count // 2 + 1} one of them is refused"
            )

        unconditional = [each for each in chosen.backends if _may_ignore_conditions(config.backends[each])]
        if chosen.append and unconditional:
            yield (
                f"replication.{name}: append: what another writer stores on {', '.join(unconditional)} in the "
                "moment before an append may be replaced there, because not every service of this type has a "
                "condition for that; disks, R2, B2 and Amazon S3 have one"
            )

    for name, job in config.jobs.items():
        path = getattr(job.source, "path", "")
        if job.compress and path.endswith(_COMPRESSED):
            yield (
                f"jobs.{name}.compress: {path} looks compressed already (by its name); compressing it again "
                "rarely saves anything: leave out compress then"
            )

    for (one, of_one), (other, of_other) in combinations(config.replication.items(), 2):
        shared = [name for name in of_one.backends if name in of_other.backends]
        if shared and set(of_one.backends) != set(of_other.backends):
            yield (
                f"replication.{one} and replication.{other} share {', '.join(shared)}: without a prefix, `verify` "
                "and `repair` of one take what the other one stored there for their own, and miss it elsewhere"
            )


@cache
def _say_once(text: str) -> None:
    """Log a warning, once in a process that loads a file again and again."""
    log.warning("%s", text)


def literal_secrets(data: Any) -> Iterator[str]:
    """Yield the settings whose secret stands in `data` itself, the values of a valid configuration."""
    for name, backend in data["backends"].items():
        options = backend.get("options") or {}
        secret = {each: backend.get(each) for each in _CREDENTIALS}
        secret |= {f"options.{each}": value for each, value in options.items() if not is_public_option(each)}
        for setting, value in secret.items():
            if _is_literal(value):
                yield f"backends.{name}.{setting}"


def _is_literal(value: Any) -> bool:
    """Tell whether a text stands in the value, other than the names of variables."""
    if isinstance(value, dict | list):
        return any(map(_is_literal, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and not is_reference(value)


def _is_near(host: str) -> bool:
    """Tell whether a host is this machine or in a private network, as far as its name says."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_SUFFIXES)
    return address.is_private or address.is_loopback or address.is_link_local
