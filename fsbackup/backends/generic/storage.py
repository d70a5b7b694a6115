"""`GenericStorage`: backups in any filesystem that fsspec can reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fsbackup.backends.base import ErrorMode, SingleBackend
from fsbackup.backends.generic.store import GenericObjects
from fsbackup.backends.generic.writer import Confirm
from fsbackup.objects import DEFAULT_TIMEOUT


class GenericStorage(SingleBackend):
    """Backups as plain files below any fsspec URL, under their own names.

    Every write is a temp file beside the target, read back and compared, then renamed over the target. How
    much a rename promises depends on the protocol:

    - ``sftp``: atomic where the server has ``posix-rename@openssh.com`` (OpenSSH and most others do); without
      it replacing an object is refused, and the old one stays.
    - ``ftp``: as the server does RNFR/RNTO. Most on Unix replace atomically; one that refuses keeps the old.
    - ``memory``: a copy that appears in one step, then the temp file is removed. Gone with the process.
    - Object stores (``gcs``, ``abfs``, ...): a copy on the server, which appears in one step.

    Over ``sftp`` files get the source's permission bits, 0600 without a source. fsspec trusts any host key unless
    ``options`` say ``host_key_policy: reject``.

    ``create_only`` asks first and is not atomic against other writers. One connection serves all operations of
    a backend, one after the other. A missing base directory is an empty backend: nothing tells an unmounted disk
    of the server from a new one.

    Parameters
    ----------
    url
        The base directory, ``protocol://host/path``. Types ``local``, ``s3``, ``r2`` and ``b2`` are not for this
        class; neither are chains (``::``).
    options
        What fsspec opens the filesystem with. Never shown in a log, repr, error or pickle.
    name
        The backend's name in results, logs and errors; default: the protocol.
    errors
        ``"return"``: the methods report failure as False or None and log it. ``"raise"``: they raise.
    confirm
        ``"checksum"`` (the default) reads each object back before it gets its name, which doubles the traffic;
        ``"size"`` compares its size only.
    timeout
        Longest silence in seconds, after which the backend counts as unavailable.

    Raises
    ------
    ConfigError
        For a URL that cannot be used, naming the package when one is missing.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
        errors: ErrorMode = "return",
        confirm: Confirm = "checksum",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        objects = GenericObjects(url, options=options, name=name, confirm=confirm, timeout=timeout)
        super().__init__(objects, errors=errors)
