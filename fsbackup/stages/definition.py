"""`Stages`: what a job, or an upload, wants done to the bytes of its source."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from fsbackup.errors import ConfigError
from fsbackup.lazy import cached_property
from fsbackup.stages import age, zstd
from fsbackup.stages.pipeline import Stage
from fsbackup.stages.plaintext import IdentityKey, Plaintext, Recorded, describe
from fsbackup.state import state_directory

log = logging.getLogger("fsbackup.storage")

#: The file of the identity key in the state directory.
KEY_FILE = "identity.key"


class Stages:
    """Compression and encryption, in this order, between a source and what is stored.

    Parameters
    ----------
    compress
        ``"zstd"``, or ``{"zstd": LEVEL}`` with a level from 1 to 19 (3 by default); None for no compression.
    encrypt
        ``{"age": [RECIPIENT, ...]}``: public keys of age (``age1...``) or SSH (``ssh-ed25519 ...``,
        ``ssh-rsa ...``), or ``file:PATH`` of a file with one of these on each line; None for no encryption.
    identity_key_file
        The secret by which the same plaintext is recognised, made when it is missing; by default ``identity.key``
        in the state directory. Of use with `encrypt` only.

    Raises
    ------
    ConfigError
        When neither is given, for an unknown kind, a wrong level, or what is no recipient; a private key among
        the recipients is not repeated.
    """

    def __init__(
        self,
        *,
        compress: str | Mapping[str, int] | None = None,
        encrypt: Mapping[str, Sequence[str]] | None = None,
        identity_key_file: str | os.PathLike[str] | None = None,
    ) -> None:
        #: The level of zstd, None for no compression.
        self.level = None if compress is None else _level(compress)
        #: Public keys, none for no encryption.
        self.recipients = () if encrypt is None else _recipients(encrypt)
        if self.level is None and not self.recipients:
            raise ConfigError("stages without compress and encrypt do nothing", hint="leave them out")
        self._key_file = Path(identity_key_file) if identity_key_file else state_directory() / KEY_FILE
        #: The host's own identity key, where `key` is not it.
        self._of_file: IdentityKey | None = None
        self._keyed: dict[bytes, Stages] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.names)})"

    @property
    def names(self) -> tuple[str, ...]:
        """The stages, in the order in which they are done."""
        return (*(("zstd",) if self.level is not None else ()), *(("age",) if self.recipients else ()))

    @property
    def suffix(self) -> str:
        """What is added to the key: ``".zst"``, ``".age"`` or ``".zst.age"``."""
        return Recorded(self.names).suffix

    @cached_property
    def key(self) -> IdentityKey | None:
        """The identity key, read or made; None without encryption.

        Raises
        ------
        ConfigError
            When it cannot be read or made.
        """
        return IdentityKey.read(self._key_file) if self.recipients else None

    @property
    def keys(self) -> Sequence[IdentityKey]:
        """The identity keys by which a plaintext is recognised: `key`, and the one in the file."""
        return [] if self.key is None else [self.key, *([self._of_file] if self._of_file is not None else [])]

    def keyed(self, secret: bytes) -> Stages:
        """Return the same with another identity key, of 32 bytes that who stores this source always has.

        What was stored with the host's own key is recognised, too; a host that cannot read it is warned.
        """
        if not self.recipients:
            return self
        if secret not in self._keyed:
            made = self._keyed[secret] = copy(self)
            made._of_file, made.key = self._find_key(), IdentityKey(secret, self._key_file)
        return self._keyed[secret]

    def for_new_name(self) -> Stages:
        """Return the same for a source whose key nothing was ever stored under: it needs no key of the host."""
        if not self.recipients or self._find_key() is not None:
            return self
        made = copy(self)
        made.key = IdentityKey(secrets.token_bytes(32), None)
        return made

    def _find_key(self) -> IdentityKey | None:
        """Return the host's own identity key, None where it cannot be read or made, of which it is warned."""
        try:
            return self.key
        except ConfigError as error:
            log.warning("%s; goes on without it: what was stored with it is not recognised as the same", error)
            return None

    @cached_property
    def recipients_fingerprint(self) -> str:
        """8 hex digits that tell these recipients from others, whatever the comments of SSH keys say."""
        keys = sorted(" ".join(each.split()[:2]) for each in self.recipients)
        return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:8]

    def sealed_key(self) -> bytes:
        """Return the identity key, encrypted to the recipients."""
        assert self.key is not None
        sealed = io.BytesIO()
        age.encrypting(self.recipients)(io.BytesIO(self.key.dump()), sealed)
        return sealed.getvalue()

    def check(self, *, needs_key: bool = True) -> None:
        """Find out now what would fail later; without `needs_key`, a missing identity key would not.

        Raises
        ------
        ConfigError
            When a package is missing, or the identity key cannot be read or made.
        """
        self.build("")
        if needs_key:
            _ = self.key

    def build(self, label: str) -> list[Stage]:
        """Return the stages to run; `label` is the source's name in messages.

        Raises
        ------
        ConfigError
            When a package is missing; it names the extra.
        """
        compress = [zstd.compressing(self.level, label)] if self.level is not None else []
        return [*compress, *([age.encrypting(self.recipients)] if self.recipients else [])]

    def bound(self, size: int) -> int:
        """Return the most bytes that `size` bytes of a source can become."""
        size = zstd.bound(size) if self.level is not None else size
        return age.bound(size, len(self.recipients)) if self.recipients else size

    def describe(self, plaintext: Plaintext) -> list[Mapping[str, Any]]:
        """Return what a record says of the stages and of the plaintext."""
        return describe(self.names, plaintext, self.key, self.recipients_fingerprint)


def _level(given: str | Mapping[str, int]) -> int:
    kind, level = (given, zstd.DEFAULT_LEVEL) if isinstance(given, str) else _only(given, "compress")
    if kind != "zstd":
        raise ConfigError(f"compress: {kind!r} is no compression that is known", hint="zstd, or {zstd: 9}")
    if type(level) is not int or level not in zstd.LEVELS:
        raise ConfigError(f"compress: the level of zstd must be from 1 to {zstd.LEVELS[-1]}, not {level!r}")
    return level


def _recipients(given: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    kind, recipients = _only(given, "encrypt")
    if kind != "age":
        raise ConfigError("encrypt: no such encryption is known", hint='{"age": [RECIPIENT, ...]}')
    try:
        return age.read_recipients([recipients] if isinstance(recipients, str) else recipients)
    except ConfigError as error:
        raise ConfigError(f"encrypt: a recipient {error.message}", hint=error.hint) from None


def _only(given: Mapping[str, Any], name: str) -> tuple[str, Any]:
    if len(given) != 1:
        raise ConfigError(f"{name}: must name one kind", hint="for example compress: zstd, encrypt: {age: [...]}")
    return next(iter(given.items()))
