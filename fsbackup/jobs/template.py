"""From a file to its key: a job's `destination`, filled in. Its fields were checked when the file was loaded."""

from __future__ import annotations

import re
import socket
import string
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from fsbackup import clock
from fsbackup.config.template import is_date_format
from fsbackup.errors import ConfigError, SourceError
from fsbackup.keys import check_key

if TYPE_CHECKING:
    from fsbackup.jobs.sources import SourceFile


def local_now() -> datetime:
    """Return the time for ``{now}``: local, with its zone; `fsbackup.clock` says why."""
    return clock.local(clock.now())


def fill_now(key: str, now: datetime) -> str:
    """Return `key` with each ``{now:FORMAT}`` filled in; any other brace is part of the key.

    Raises
    ------
    ConfigError
        When a format is not one of a date, or the result is no legal key.
    """
    for found in _NOW.finditer(key):
        if not is_date_format(found[1] or ""):
            hint = "give it a date format, for example {now:%Y-%m-%d} or {now:%Y-%m-%dT%H%M%S}"
            raise ConfigError(f"key {key!r}: {found[0]} cannot be filled in", hint=hint)
    try:
        return check_key(_NOW.sub(lambda found: f"{now:{found[1]}}", key))
    except ValueError as error:
        raise ConfigError(str(error)) from None


_NOW = re.compile(r"\{now(?::([^{}]*))?\}")


class _SeriesNow:
    """Stands for the time in the series of a key: is written as the field that it was."""

    def __format__(self, spec: str) -> str:
        return f"{{now:{spec}}}"


class Destination:
    """A job's destination for one run: every file of the run gets the same ``{now}``.

    Parameters
    ----------
    template
        As in the configuration, checked there.
    job
        The job's name.
    now
        The time of the run.
    hostname
        This machine's name by default.
    suffix
        Added to each key: what the job's stages make of a file.
    """

    def __init__(
        self, template: str, *, job: str, now: datetime, hostname: str | None = None, suffix: str = ""
    ) -> None:
        self._template = template + suffix
        self.suffix = suffix
        self._same_for_all = {"job": job, "hostname": hostname or socket.gethostname()}
        self._now = now
        parsed = list(string.Formatter().parse(template))
        fields = {name for _, name, _, _ in parsed}
        #: What all keys of all runs lie below, as a prefix of keys; empty when there is no such thing.
        self.prefix = _fixed((text, name is not None) for text, name, _, _ in parsed)
        #: Whether no two files of one source can get the same key.
        self.is_unique_per_file = "relpath" in fields
        #: Whether the files of two runs are versions of one thing.
        self.makes_series = "now" in fields

    def of_file(self, file: SourceFile) -> tuple[str, str | None]:
        """Return the key of `file`, and the series that it is of, None where the destination makes none.

        Raises
        ------
        SourceError
            When it would not be a legal key.
        """
        try:
            return self._fill(name=file.relpath.rpartition("/")[2], relpath=file.relpath)
        except ValueError as error:
            hint = "rename it, or add it to the job's exclude"
            raise SourceError(f"{file.path!r} cannot be stored: {error}", hint=hint) from None

    def of_item(self, item: str | None) -> tuple[str, str | None]:
        """Return key and series of an item of `for_each`; of the command itself for None.

        Raises
        ------
        SourceError
            When it would not be a legal key.
        """
        try:
            return self._fill(item=item)
        except ValueError as error:
            raise SourceError(
                f"item {item!r} cannot be stored: {error}", hint="rename it, or do not list it"
            ) from None

    def _fill(self, **fields: str | None) -> tuple[str, str | None]:
        fields |= self._same_for_all
        key = check_key(self._template.format(now=self._now, **fields))
        return key, self._template.format(now=_SeriesNow(), **fields) if self.makes_series else None


def _fixed(parts: Iterable[tuple[str, bool]]) -> str:
    """Return the whole segments before the first field of a template: its texts, each before a field or not."""
    fixed = ""
    for text, before_a_field in parts:
        fixed += text
        if before_a_field:
            return fixed.rpartition("/")[0]
    return fixed
