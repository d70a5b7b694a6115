"""Encryption by age: recipients (public keys) to encrypt to, identities (private keys) to decrypt with.

A private key in place of a public one is refused without repeating it: it is a secret, and the host that makes
backups must not be able to read them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from fsbackup.errors import ConfigError, IntegrityError, missing_package
from fsbackup.stages.pipeline import Reader, Stage, Writer

SUFFIX = ".age"
#: Names a file of recipients, one a line.
FILE_PREFIX = "file:"
#: Names a file of identities, where no parameter does.
IDENTITY_VARIABLE = "FSBACKUP_AGE_IDENTITY"
#: Bytes that are read of a file of keys.
_LONGEST = 1 << 20

_SECRET = re.compile(r"AGE-SECRET-KEY-|AGE-PLUGIN-|PRIVATE KEY", re.IGNORECASE)
_X25519 = re.compile(r"age1[02-9ac-hj-np-z]{58}")
_SSH = re.compile(r"(ssh-ed25519|ssh-rsa) [A-Za-z0-9+/=]+( .*)?")
_KINDS = "age1..., ssh-ed25519 ..., ssh-rsa ..., or file:PATH with one of these on each line"


def library() -> ModuleType:
    """Return the module that encrypts.

    Raises
    ------
    ConfigError
        When it is not installed.
    """
    try:
        import pyrage
    except ImportError as error:
        raise missing_package("age", "age", error) from None
    return pyrage  # type: ignore[no-any-return]


def bound(size: int, recipients: int) -> int:
    """Return the most bytes that `size` bytes can be encrypted to: the header, and 16 bytes for each 64 KiB."""
    return size + 16 * (size // 65536 + 2) + 512 + 1024 * recipients


def read_recipients(given: Iterable[str], directory: str | os.PathLike[str] = "") -> tuple[str, ...]:
    """Return the recipients that are meant, each of them one line, those of files too.

    Parameters
    ----------
    given
        Recipients and ``file:PATH``.
    directory
        Where a relative path starts.

    Raises
    ------
    ConfigError
        For what is no recipient, or a private key, which is not repeated; and for a file that cannot be read, or
        has none.
    """
    found: list[str] = []
    for text in given:
        if text.startswith(FILE_PREFIX):
            found += _of_file(Path(directory, os.path.expanduser(text.removeprefix(FILE_PREFIX))))
        else:
            found.append(check_recipient(text))
    if not found:
        raise ConfigError("must be at least one public key", hint=_KINDS)
    return tuple(dict.fromkeys(found))


def check_recipient(text: str) -> str:
    """Return one recipient as it is written, without spaces around it.

    Raises
    ------
    ConfigError
        When it is none, or is a private key.
    """
    text = text.strip()
    if _SECRET.search(text):
        raise ConfigError(
            "is a private key, which can read every backup and must not be here",
            hint="write its public key: `age-keygen -y FILE`, or the .pub file of an SSH key; if others could see "
            "it here, make a new one",
        )
    if not _X25519.fullmatch(text) and not _SSH.fullmatch(text):
        raise ConfigError("must be a public key that age can encrypt to", hint=_KINDS)
    try:
        pyrage = library()
    except ConfigError:
        return text  # said when it is used: a host that only watches does without
    try:
        _recipient(pyrage, text)
    except pyrage.RecipientError:
        raise ConfigError("must be a public key, whole and without a typing mistake", hint=_KINDS) from None
    return text


def _of_file(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read(_LONGEST).splitlines()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {why}") from None
    wanted = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
    if not wanted:
        raise ConfigError(f"{path} has no recipient", hint=_KINDS)
    try:
        return [check_recipient(line) for line in wanted]
    except ConfigError as error:
        raise ConfigError(f"{path}: a line {error.message}", hint=error.hint) from None


def _recipient(pyrage: ModuleType, text: str) -> Any:
    return (pyrage.x25519 if text.startswith("age1") else pyrage.ssh).Recipient.from_str(text)


def encrypting(recipients: Sequence[str]) -> Stage:
    """Return the stage that encrypts to all of `recipients`."""
    pyrage = library()
    keys = [_recipient(pyrage, each) for each in recipients]

    def encrypt(reader: Reader, writer: Writer) -> None:
        pyrage.encrypt_io(reader, writer, keys)

    return encrypt


def decrypting(identities: Sequence[Any]) -> Stage:
    """Return the stage that decrypts with any of `identities`, as `read_identities` returned them."""
    pyrage = library()

    def decrypt(reader: Reader, writer: Writer) -> None:
        try:
            pyrage.decrypt_io(reader, writer, identities)
        except pyrage.DecryptError as error:
            if "matching keys" in str(error):
                raise ConfigError(
                    "cannot be decrypted: it is encrypted to other recipients than the identity that was given",
                    hint="give the private key of one of the recipients that it was encrypted to",
                ) from None
            raise IntegrityError(f"cannot be decrypted: {error}") from error
        except OSError as error:
            raise IntegrityError(f"cannot be decrypted, it is damaged or cut off: {error}") from error

    return decrypt


def read_identities(paths: Iterable[str | os.PathLike[str]]) -> list[Any]:
    """Return the private keys in these files: age's own, or one SSH key a file.

    Raises
    ------
    ConfigError
        When a file cannot be read, has none, or is protected by a passphrase.
    """
    return [key for path in paths for key in _identities_of(Path(os.path.expanduser(path)))]


def _identities_of(path: Path) -> list[Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_LONGEST)
    except OSError as error:
        hint = "name the file of an age identity (AGE-SECRET-KEY-1...) or of a private SSH key"
        raise ConfigError(f"identity {path}: cannot be read: {error.strerror}", hint=hint) from None
    pyrage = library()
    try:
        if b"PRIVATE KEY-----" in data:
            return [pyrage.ssh.Identity.from_buffer(data)]
        lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
        keys = [line for line in lines if line and not line.startswith("#")]
        if keys and all(line.upper().startswith("AGE-SECRET-KEY-") for line in keys):
            return [pyrage.x25519.Identity.from_str(line) for line in keys]
    except pyrage.IdentityError as error:
        raise _no_identity(path, str(error)) from None
    raise _no_identity(path, "locked" if b"age-encryption.org/" in data or b"BEGIN AGE " in data else "")


def _no_identity(path: Path, why: str) -> ConfigError:
    if "decrypted first" in why:
        hint = f"use a copy without one: `cp {path} COPY`, `ssh-keygen -p -N '' -f COPY`; remove it afterwards"
        return ConfigError(f"identity {path}: is protected by a passphrase, which is not asked for", hint=hint)
    if why == "locked":
        hint = f"decrypt it first: `age -d {path} > COPY`; remove the copy afterwards"
        return ConfigError(f"identity {path}: is protected by a passphrase, which is not asked for", hint=hint)
    hint = "it must be an age identity (lines of AGE-SECRET-KEY-1...) or a private SSH key (ed25519 or RSA)"
    return ConfigError(f"identity {path}: has no private key that age can use", hint=hint)
