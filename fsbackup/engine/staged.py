"""A source on its way through stages: `StagedSource` is what they make of it, to be stored like any stream.

The source is read, and the stages run, in threads of their own (`fsbackup.stages.pipeline`). The last part is
handed on only when all of them have ended well, so that nothing is committed of a source that fails, however late.

`find_same` says before an upload, and after one that met another writer, whether a stored version is of the same
plaintext. Of that version the ciphertext is stored on the replicas that lack it (`stored_source`); staging the
source again would make another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, cast

from fsbackup.engine import versions
from fsbackup.engine.copy import ReplicaSource
from fsbackup.engine.download import reader_of
from fsbackup.engine.file_source import FileSource
from fsbackup.engine.hashing import ObjectHasher
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.stream_source import StreamSource
from fsbackup.errors import ConflictError, SourceError, UnknownIdentityError
from fsbackup.events import log
from fsbackup.record import Manifest
from fsbackup.stages import Stages
from fsbackup.stages.pipeline import CHUNK, AbandonedError, Pipeline, Slices
from fsbackup.stages.plaintext import Plaintext, Recorded
from fsbackup.threads import in_daemon_thread


class StagedSource(StreamSource):
    """What stages make of a file or stream. Its size is not known before its end; it cannot be read again.

    Parameters
    ----------
    plain
        The source. It is closed with this one; a file when the thread that reads it has ended.
    stages
        What is done to its bytes.

    Raises
    ------
    ConfigError
        When a package or the identity key is missing.
    """

    _look_ahead = CHUNK

    def __init__(self, plain: FileSource | StreamSource, stages: Stages) -> None:
        super().__init__(cast(BinaryIO, None), plain.label, allow_empty=True)
        self.mtime_ns, self.mode, self.directories, self.owner = (
            plain.mtime_ns,
            plain.mode,
            plain.directories,
            plain.owner,
        )
        plain.hash_whole_only()
        self.plain = plain
        self.definition = self._stages = stages
        # A bound of the size is as good as the size: blocks of one size are hashed instead of two.
        self._hasher = ObjectHasher(self.most_bytes)
        _ = stages.key  # made now: nothing is sent before it is known
        #: Whether a stream was read for its plaintext alone, and whether the staged bytes were read to their end.
        self._was_read = self._is_complete = False
        self._pipeline = Pipeline(_PlainReader(plain), stages.build(plain.label), on_idle=self._release)

    @property
    def most_bytes(self) -> int | None:
        return None if self.plain.size is None else self._stages.bound(self.plain.size)

    @property
    def stages(self) -> Sequence[Mapping[str, Any]]:
        return self._stages.describe(self.plaintext)

    @property
    def plaintext(self) -> Plaintext:
        """What was read of the plaintext so far."""
        return Plaintext(self.plain.bytes_read, self.plain.sha256)

    @property
    def can_be_staged(self) -> bool:
        """Whether the source can still be staged: a file always, a stream until it was read."""
        return isinstance(self.plain, FileSource) or not self._was_read

    @property
    def can_be_compared(self) -> bool:
        """Whether `read_plaintext` can be called after an upload, which may have ended early."""
        return isinstance(self.plain, FileSource) or self._was_read or self._is_complete

    def tells_same(self, manifest: Manifest, plaintext: Plaintext) -> bool | None:
        """Return whether a version is of `plaintext`; None where it cannot be told."""
        recorded = Recorded.of(manifest)
        return False if recorded is None else recorded.is_of(plaintext, self._stages.keys)

    def is_for_others(self, manifest: Manifest) -> bool:
        """Return whether a version is known to be encrypted to other recipients than the source will be."""
        recorded = Recorded.of(manifest)
        to = None if recorded is None else recorded.recipients
        return to is not None and to != self._stages.recipients_fingerprint

    async def read_plaintext(self) -> Plaintext:
        """Read the whole plaintext, a stream's for good.

        Raises
        ------
        SourceError
            When it cannot be read, or is refused.
        """
        if self._is_complete:
            return self.plaintext
        if isinstance(self.plain, FileSource):
            return Plaintext(self.plain.replayable_bytes, await self.plain.hash_ahead() or "")
        if not self._was_read:
            self._was_read, reader = True, _PlainReader(self.plain)
            await in_daemon_thread(lambda: [None for _ in iter(lambda: reader.read(CHUNK), b"")])
        return self.plaintext

    def close(self) -> None:
        """End the stages, and close the source: a file when its thread is done, anything else at once."""
        super().close()
        self._pipeline.close()
        if self.plain.interruptible:
            self.plain.close()

    def _release(self) -> None:
        if not self.plain.interruptible:
            self.plain.close()

    def _read_piece(self, length: int) -> bytes:
        try:
            piece = self._pipeline.read(length)
        except SourceError:
            raise
        except AbandonedError:
            raise SourceError(f"{self.label}: the upload has ended") from None
        except Exception as error:
            raise SourceError(f"{self.label}: cannot be compressed or encrypted: {error}") from error
        self._is_complete = not piece
        return piece


class _PlainReader(Slices):
    """Reads a source part by part, in the thread of the first stage."""

    def __init__(self, plain: FileSource | StreamSource) -> None:
        super().__init__(self._next)
        self._plain = plain
        self._is_last = False

    def _next(self) -> bytes:
        if self._is_last:
            return b""
        part = self._plain.read_part(CHUNK, md5=False)
        self._is_last = part.last
        return bytes(part.data)


async def find_same(
    source: StagedSource, key: str, replicas: Sequence[ReplicaState], min_copies: int, *, overwrite: bool
) -> Manifest | None:
    """Return the stored version that is of the same plaintext; None where the source is to be stored as a new one.

    With `overwrite` one that is encrypted to other recipients is not the same; without, that is only said.

    A stream that may not replace anything is read to its end for it, and cannot be staged any more: where there is
    a version, it is the same or a conflict.

    Raises
    ------
    ConflictError
        When another plaintext is stored and must not be replaced; an `UnknownIdentityError` where that cannot be
        told.
    SourceError
        When the source cannot be read.
    """
    latest, highest = versions.newest(replicas, min_copies), versions.highest(replicas)
    wanted = [highest, latest] if overwrite else [latest if isinstance(latest, Manifest) else highest]
    stored = [each for each in wanted if isinstance(each, Manifest)]
    if not stored or (overwrite and not isinstance(source.plain, FileSource)):
        return None
    plaintext = await source.read_plaintext()
    found = {source.tells_same(each, plaintext): each for each in stored}
    same = found.get(True)
    if same is not None and source.is_for_others(same):
        if overwrite:
            return None
        log.warning(
            "%s: is stored already, but encrypted to other recipients, who alone can read it; overwrite it to "
            "encrypt it to those that are given now",
            key,
        )
    if same is not None or overwrite:
        return same
    raise _unknown_identity(source.label, key) if None in found else versions.other_content(None, key)


def _unknown_identity(label: str, key: str) -> ConflictError:
    return UnknownIdentityError(
        f"an encrypted object is stored under this key, and whether it is {label} cannot be told: it was stored "
        "with an identity key that this host does not have",
        operation="upload",
        key=key,
        hint="give that key (identity_key_file; each backend has a copy in .fsbackup/keys/, encrypted to the "
        "recipients), or store it once more with overwrite",
    )


class StoredSource(ReplicaSource):
    """A version as its replicas have it; they prove it, so that its hash is known."""

    def known_sha256(self) -> str:
        return self._manifest.sha256


def stored_source(
    targets: ReplicaSet, manifest: Manifest, replicas: Sequence[ReplicaState]
) -> StoredSource | None:
    """Return the stored version as a source, None where no replica has its data."""
    reader = reader_of(replace(targets, memory=targets.memory // 2), manifest, replicas)
    return None if reader is None else StoredSource(reader, manifest)
