"""What a job of commands stores: one command, or one for each item of a list, each with its key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from fsbackup.config.sources import ITEM
from fsbackup.engine.command import Command
from fsbackup.engine.process import Process
from fsbackup.errors import SourceError
from fsbackup.jobs.sources import Unreadable
from fsbackup.jobs.template import Destination

if TYPE_CHECKING:
    from fsbackup.config import CommandConfig

#: The longest list of items, in bytes: some hundred thousand names.
_MAX_LIST = 16 << 20


def find_commands(
    source: CommandConfig, destination: Destination, *, allow_empty: bool = False
) -> Iterator[tuple[Command, str, str | None] | Unreadable]:
    """Yield each command with its key and series; an item that cannot have one is `Unreadable`, and fails alone.

    Parameters
    ----------
    source
        What to run. A command that lists the items is run here.
    destination
        Names the keys.
    allow_empty
        A list without any item is no mistake.
    """
    if source.for_each is None:
        yield Command(source.command, source.min_bytes, source.timeout), *destination.of_item(None)
        return
    try:
        items = list(source.for_each) if isinstance(source.for_each, tuple) else _listed_items(source)
    except SourceError as error:
        yield Unreadable(source.label, error)
        return
    if not items and not allow_empty:
        hint = "a job that backs up nothing counts as failed, unless it has allow_empty"
        yield Unreadable(source.label, SourceError("for_each: the command lists no item", hint=hint))
    seen: set[str] = set()
    for item in items:
        yield _command_for(item, source, destination, seen)


def _command_for(
    item: str, source: CommandConfig, destination: Destination, seen: set[str]
) -> tuple[Command, str, str | None] | Unreadable:
    name = f"{source.label} ({item})"
    try:
        _check_item(item, source, seen)
        found = destination.of_item(item)
    except SourceError as error:
        return Unreadable(name, error)
    arguments = [each.replace(ITEM, item) for each in source.command]
    return Command(arguments, source.min_bytes, source.timeout, name), *found


def _check_item(item: str, source: CommandConfig, seen: set[str]) -> None:
    if item in seen:
        raise SourceError(f"item {item!r} is listed twice")
    seen.add(item)
    if item.startswith("-") and any(each.startswith(ITEM) for each in source.command):
        raise SourceError(
            f"item {item!r} would be taken for an option of {source.label}",
            hint=f"put it behind something: --dbname={ITEM}, or ./{ITEM}",
        )


def _listed_items(source: CommandConfig) -> list[str]:
    """Return the lines that the command of `for_each` writes.

    Raises
    ------
    SourceError
        When it cannot be run, fails, takes too long, or writes no list.
    """
    assert source.for_each is not None
    assert not isinstance(source.for_each, tuple)
    arguments = source.for_each.command
    output = b""
    with closing(Process(arguments, name=f"for_each: {arguments[0]}", timeout=source.timeout)) as process:
        while piece := process.read(1 << 16):
            output += piece
            if len(output) > _MAX_LIST:
                raise SourceError(
                    f"for_each: {arguments[0]} writes more than {_MAX_LIST:,} bytes: no list of items"
                )
        process.wait()
    lines = [os.fsdecode(line.removesuffix(b"\r")) for line in output.split(b"\n")]
    return [line for line in lines if line.strip()]
