"""How the same plaintext is recognised: by what the record says of it, `Recorded`, and the host's `IdentityKey`.

age never makes the same bytes twice, so the object's SHA-256 does not tell whether a source was stored already.
Of what is only compressed the record has the plaintext's SHA-256: who can read the object can compute it anyway.
Of what is encrypted it has an HMAC of that, with a random key that stays on the host: who reads the bucket cannot
test guesses. The record names the key by its fingerprint, so that an object of another host, or from before the
key was lost, is known for one of which nothing can be told.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsbackup.errors import ConfigError
from fsbackup.record import Manifest
from fsbackup.stages import age, zstd

#: The stages that this version can undo, with the suffix that each adds to the key.
SUFFIXES = {"zstd": zstd.SUFFIX, "age": age.SUFFIX}
_BYTES = 32


@dataclass(frozen=True)
class Plaintext:
    """A source that was read to its end: its size in bytes, and its SHA-256 in hex."""

    size: int
    sha256: str


class IdentityKey:
    """The secret that the identities of encrypted plaintexts are made with.

    Parameters
    ----------
    key
        32 bytes.
    path
        Its file; None for a key that is used once, and of which no copy is kept.
    """

    def __init__(self, key: bytes, path: Path | None) -> None:
        self._key = key
        self.copies = Copies(None if path is None else path.with_name(f"{path.name}.copies"))
        self.fingerprint = hashlib.sha256(b"fsbackup identity key\0" + key).hexdigest()[:8]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.fingerprint})"

    def identity(self, plaintext: Plaintext) -> str:
        """Return the identity of a plaintext, 64 hex digits."""
        return hmac.new(self._key, bytes.fromhex(plaintext.sha256), "sha256").hexdigest()

    def dump(self) -> bytes:
        """Return the content of its file."""
        return f"{self._key.hex()}\n".encode()

    @classmethod
    def read(cls, path: Path) -> IdentityKey:
        """Return the key in a file; where there is none, it is made, for the owner alone.

        Raises
        ------
        ConfigError
            When it cannot be read or made, is no key, or others can read it.
        """
        try:
            with suppress(FileExistsError):
                if not os.path.lexists(path):
                    _create(path)
            with open(path, "rb") as file:
                mode, text = os.fstat(file.fileno()).st_mode, file.read(4 * _BYTES)
        except OSError as error:
            hint = "say where it can be kept: identity_key_file, or state_dir"
            raise ConfigError(f"identity key {path}: {error.strerror}", hint=hint) from None
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(f"identity key {path}: others can read it", hint=f"chmod 600 {path}")
        with suppress(ValueError):
            key = bytes.fromhex(text.decode("ascii", "replace").strip())
            if len(key) == _BYTES:
                return cls(key, path)
        hint = "put it back from a copy, or remove it: then what was stored before is not recognised as the same"
        raise ConfigError(f"identity key {path}: is not 64 hex digits", hint=hint)


class Copies:
    """The places that have a copy of the key, as lines of a file; a place is claimed while the copy is written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._places: set[str] | None = None

    def claim(self, place: str) -> bool:
        """Return whether a copy is to be written: nobody has, and nobody does."""
        if self._path is None:
            return False
        if self._places is None:
            self._places = set()
            with suppress(OSError, ValueError):
                self._places.update(self._path.read_text(encoding="utf-8").splitlines())
        if place in self._places:
            return False
        self._places.add(place)
        return True

    def give_up(self, place: str) -> None:
        """Take the claim back: the copy could not be written."""
        if self._places is not None:
            self._places.discard(place)

    def note(self, place: str) -> None:
        """Take note of a copy for later processes; without a note one more is written."""
        if self._path is not None:
            with suppress(OSError), open(self._path, "a", encoding="utf-8") as file:
                file.write(f"{place}\n")


def _create(path: Path) -> None:
    """Create the file whole or not at all: two processes that begin at once have one key."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temp = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(f"{secrets.token_hex(_BYTES)}\n".encode())
            file.flush()
            os.fsync(descriptor)
        os.link(temp, path)
    finally:
        os.unlink(temp)


@dataclass(frozen=True)
class Recorded:
    """What a record says of its stages.

    Parameters
    ----------
    names
        The stages, in the order in which they were done.
    size
        Bytes of the plaintext, None where the record does not say.
    sha256
        Of the plaintext, where it was not encrypted.
    hmac, key
        The keyed identity, and the fingerprint of its key, where it was.
    recipients
        The fingerprint of those that it was encrypted to.
    """

    names: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    hmac: str | None = None
    key: str | None = None
    recipients: str | None = None

    @classmethod
    def of(cls, manifest: Manifest | None) -> Recorded | None:
        """Return what a record says, None where nothing was done to the bytes of its object."""
        if manifest is None or not manifest.stages:
            return None
        first = manifest.stages[0]
        names = tuple(str(each.get("stage")) for each in manifest.stages)
        size = first.get("size")
        texts = {name: text for name in ("sha256", "hmac", "key") if isinstance(text := first.get(name), str)}
        encrypted = next((each for each in manifest.stages if each.get("stage") == "age"), {})
        if isinstance(recipients := encrypted.get("recipients"), str):
            texts["recipients"] = recipients
        return cls(names, size if type(size) is int else None, **texts)

    @property
    def suffix(self) -> str:
        """What the stages added to the key."""
        return "".join(SUFFIXES.get(name, "") for name in self.names)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Stages that this version cannot undo."""
        return tuple(name for name in self.names if name not in SUFFIXES)

    def is_of(self, plaintext: Plaintext, keys: Sequence[IdentityKey]) -> bool | None:
        """Return whether the object is of `plaintext`; None where it cannot be told, for want of its key."""
        if self.size is not None and self.size != plaintext.size:
            return False
        if self.sha256 is not None:
            return self.sha256 == plaintext.sha256
        key = next((each for each in keys if each.fingerprint == self.key), None)
        if self.hmac is None or key is None:
            return None
        return hmac.compare_digest(self.hmac, key.identity(plaintext))


def describe(
    names: Sequence[str], plaintext: Plaintext, key: IdentityKey | None, recipients: str
) -> list[Mapping[str, Any]]:
    """Return the `stages` of a record: one mapping for each, the first with what is said of the plaintext.

    `recipients` is the fingerprint of those that it is encrypted to, where it is.
    """
    said: dict[str, Any] = {"size": plaintext.size}
    if key is None:
        said["sha256"] = plaintext.sha256
    else:
        said |= {"hmac": key.identity(plaintext), "key": key.fingerprint}
    of_stage = {"age": {"recipients": recipients}}
    first, *others = ({"stage": name, **of_stage.get(name, {})} for name in names)
    return [{**first, **said}, *others]
