"""`Undo`: what a reader wants undone of an object's stages, and with whose identity."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fsbackup.errors import ConfigError
from fsbackup.lazy import cached_property
from fsbackup.stages import age, zstd
from fsbackup.stages.pipeline import Stage
from fsbackup.stages.plaintext import Recorded

#: A file of identities, or several.
IdentityFiles = str | os.PathLike[str] | Sequence["str | os.PathLike[str]"]


class Undo:
    """Undoes the stages of objects: decrypts with the identity that is given, and decompresses.

    Parameters
    ----------
    identity
        A file, or several, with an age identity or a private SSH key; None: the file that
        ``$FSBACKUP_AGE_IDENTITY`` names, if it is needed.

    Raises
    ------
    ConfigError
        When a file that is given cannot be used.
    """

    def __init__(self, identity: IdentityFiles | None = None) -> None:
        given = os.environ.get(age.IDENTITY_VARIABLE) if identity is None else identity
        if not given:
            self._files: tuple[str | os.PathLike[str], ...] = ()
        else:
            self._files = (given,) if isinstance(given, str | os.PathLike) else tuple(given)
        if identity is not None:
            _ = self._identities  # what is named here is wanted: said before anything is read

    @property
    def can_decrypt(self) -> bool:
        """Whether an identity is given."""
        return bool(self._files)

    @cached_property
    def _identities(self) -> list[Any]:
        return age.read_identities(self._files)

    def build(self, recorded: Recorded) -> list[Stage]:
        """Return what undoes the stages of an object, last stage first.

        Raises
        ------
        ConfigError
            When a stage is not known, no identity is given, it cannot be used, or a package is missing.
        """
        if recorded.unknown:
            raise ConfigError(
                f"it was stored with a stage that is not known: {', '.join(recorded.unknown)}",
                hint="upgrade fsbackup, or read it as it is stored: --raw (raw=True in Python)",
            )
        return [self._undoing(name) for name in reversed(recorded.names)]

    def _undoing(self, name: str) -> Stage:
        if name == "zstd":
            return zstd.decompressing()
        if not self._files:
            raise ConfigError(
                "it is encrypted, and no identity is given",
                hint=f"give the private key: --identity FILE, identity= in Python, or ${age.IDENTITY_VARIABLE}; "
                "or read it as it is stored: --raw, raw=True in Python",
            )
        return age.decrypting(self._identities)
