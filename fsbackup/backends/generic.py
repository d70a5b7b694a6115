"""`GenericStorage`: anything that fsspec has a filesystem for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fsbackup.backends.base import ErrorMode, SingleBackend
from fsbackup.stores.base import DEFAULT_TIMEOUT
from fsbackup.stores.generic.store import GenericStore
from fsbackup.stores.generic.writer import Confirm


class GenericStorage(SingleBackend):
    """Backups as plain files below any fsspec URL, under their own names.

    Every write creates a temp file beside the target, reads it back, compares it and renames it over the target.
    What the rename guarantees depends on the protocol:

    - ``sftp``: atomic where the server has ``posix-rename@openssh.com`` (OpenSSH and most others do); other
      servers refuse to replace an object, and the old one stays.
    - ``ftp``: depends on RNFR/RNTO. Most servers on Unix replace atomically; a server that refuses keeps the
      old object.
    - ``memory``: a copy that appears in one step, then the temp file is removed. Objects are lost with the
      process.
    - Object stores (``gcs``, ``abfs``, ...): a copy on the server, which appears in one step.

    Over ``sftp`` files get the source's permission bits, 0600 without a source. fsspec trusts any host key unless
    `options` contain ``host_key_policy: reject``.

    No such service refuses to replace an object: whoever creates one says so in a write intent first, and of two
    hosts that create one key in the same moment one waits for the other; that takes some requests more for each
    new object. One connection serves all operations of a backend, one after the other. A missing base directory
    is an empty backend, since an unmounted disk of the server cannot be distinguished from a new one.

    Parameters
    ----------
    url
        The base directory, ``protocol://host/path``. URLs of local files and S3 have their own
        classes; chains (``::``) are refused.
    options
        Arguments of the fsspec filesystem. Never shown in a log, repr, error or pickle.
    name
        The backend's name in results, logs and errors; default: the protocol.
    errors
        ``"return"`` or ``"raise"``, see `StorageBackend`.
    confirm
        ``"checksum"`` (default) reads each object back before it gets its name, which doubles the traffic;
        ``"size"`` only compares its size.
    timeout
        Seconds without a byte moved after which the backend counts as unavailable; default 60.

    Raises
    ------
    ConfigError
        When the URL cannot be used; names a missing package.
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
        store = GenericStore(url, options=options, name=name, confirm=confirm, timeout=timeout)
        super().__init__(store, errors=errors)
