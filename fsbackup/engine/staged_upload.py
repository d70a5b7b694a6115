"""The upload of a source that goes through stages: where the same plaintext is stored, its ciphertext is sent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from fsbackup.engine import identity_copies, records
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import Report
from fsbackup.engine.source import Source
from fsbackup.engine.staged import StagedSource, find_same, stored_source
from fsbackup.engine.survey import Answers, survey
from fsbackup.errors import ConflictError, SourceError

log = logging.getLogger("fsbackup.storage")


class PreparedUpload(Protocol):
    """An upload that has not begun."""

    async def run(self) -> Report: ...
    def refuse(self, error: ConflictError) -> Report: ...


class StagedUpload:
    """Stores what stages make of a source, or where the same plaintext is stored, what they made of it then.

    Parameters
    ----------
    targets, key, source, overwrite
        As for `upload.upload`.
    prepare
        Returns the upload of a source, given what the stores answered.
    """

    def __init__(
        self,
        targets: ReplicaSet,
        key: str,
        source: StagedSource,
        prepare: Callable[[Source, Answers], PreparedUpload],
        overwrite: bool,
    ) -> None:
        self._targets = targets
        self._key = key
        self._source = source
        self._prepare = prepare
        self._overwrite = overwrite

    async def run(self, answers: Answers) -> Report:
        """Store it; where another writer came first, look once more whether theirs is of the same plaintext."""
        try:
            if (report := await self._as_stored(answers)) is not None:
                return report
        except ConflictError as error:
            return self._prepare(self._source, answers).refuse(error)
        report = await self._prepare(self._source, answers).run()
        if report:
            stored = [each for each in self._targets.stores if report.replicas[each.name].ok]
            await identity_copies.keep(stored, self._source.definition)
        if self._overwrite or not self._source.can_be_compared or not _is_conflict(report):
            return report
        try:
            now = Answers(await survey(self._targets.stores, self._key), {})
            again = await self._as_stored(now)
        except ConflictError:
            return report
        return report if again is None else again

    async def _as_stored(self, answers: Answers) -> Report | None:
        """Return the report on a stored version of the same plaintext; None where there is none to go on with."""
        replicas = answers.replicas
        if records.refusal(replicas, "upload"):
            return None
        min_copies = self._targets.min_copies
        same = await find_same(self._source, self._key, replicas, min_copies, overwrite=self._overwrite)
        stored = None if same is None else stored_source(self._targets, same, replicas)
        if stored is None:
            return None
        try:
            return await self._prepare(stored, answers).run()
        except SourceError as error:
            if not self._source.can_be_staged:
                raise
            log.warning("%s is stored as a new version, because no replica proves it: %s", self._key, error)
            return None
        finally:
            await stored.stop()


def _is_conflict(report: Report) -> bool:
    return not report and any(isinstance(error, ConflictError) for error in report.errors.values())
