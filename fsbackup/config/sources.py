"""What a job backs up: files that are there, or what a command writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    ValidationInfo,
    field_validator,
)

from fsbackup.config.problems import rule_error
from fsbackup.config.values import Model, PositiveCount, Seconds, Size, SourcePath, Text, schema

#: What stands for an item of `for_each` in the arguments of a command.
ITEM = "{item}"


Links = Literal["skip", "follow", "fail"]


def _check_pattern(value: str) -> str:
    from pathspec import GitIgnoreSpec

    try:
        GitIgnoreSpec.from_lines([value])
    except ValueError:
        raise rule_error("must be a pattern of gitignore") from None
    return value


class SourceConfig(Model):
    """Files that a job backs up."""

    path: SourcePath = Field(
        description="A file, a directory (all files below it) or a glob. A relative path starts at this file's "
        "own directory; ~ is the home directory.",
        examples=["/srv/dumps/db.sql.gz", "/srv/tenants/", "/srv/dumps/*.gz"],
    )
    exclude: tuple[Annotated[Text, AfterValidator(_check_pattern)], ...] = Field(
        default=(),
        description="What to leave out, with the patterns of gitignore: `*.tmp` anywhere, `/cache` only at the "
        "top, `build/` only a directory, `!keep.tmp` takes back what an earlier pattern left out.",
        examples=[["*.tmp", ".git"]],
        json_schema_extra={"default": []},
    )
    archive: Literal["tar"] | None = Field(
        default=None,
        description="Store the directory as one object, an archive by GNU tar with all that files are: links, "
        "owners, modes, empty directories, holes, extended attributes. A file that changes while it is read fails "
        "the job. Left out, each file is an object of its own.",
        examples=["tar"],
    )
    links: Links = Field(
        default="skip",
        description="What to do about links below a directory or glob: skip them, follow those to files (store "
        "what they point to, wherever that is), or fail. Links to directories are never followed.",
        examples=["follow"],
    )
    changing: Literal["keep", "fail"] = Field(
        default="keep",
        description="What to do about a file that grows while it is read, as a log does: keep what it had when it "
        "was opened, if that is still the same after it was read, or fail. Any other change always fails.",
        examples=["fail"],
    )

    @field_validator("links")
    @classmethod
    def _links_of_an_archive(cls, value: Links, info: ValidationInfo) -> Links:
        if info.data.get("archive") and value != "skip":
            raise rule_error("must be left out with archive", "an archive has links as they are")
        return value

    @property
    def label(self) -> str:
        """What messages call the source."""
        return self.path

    @property
    def may_match_many(self) -> bool:
        """Whether it is plain from the settings alone that more than one file is meant.

        False says nothing of a path that turns out to be a directory: only a look at the disk can.
        """
        return self.path.endswith("/") or bool(self.exclude) or any(letter in self.path for letter in "*?[")


def _check_argument(value: str) -> str:
    if "\0" in value:
        raise rule_error("must not have a NUL character")
    return value


def _check_program(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value[0]:
        raise rule_error("must begin with the name of a program")
    return value


Arguments = Annotated[
    tuple[Annotated[str, AfterValidator(_check_argument)], ...],
    Field(min_length=1),
    AfterValidator(_check_program),
]


class ForEachConfig(Model):
    """Items that a command lists."""

    command: Arguments = Field(
        description="The program and its arguments; each line that it writes to standard output is an item. It is "
        "run by `--dry-run`, too.",
        examples=[["psql", "-At", "-c", "select datname from pg_database where datallowconn"]],
    )


Items = Annotated[
    Annotated[ForEachConfig, Tag("<mapping>")] | Annotated[tuple[Text, ...], Tag("<list>"), Field(min_length=1)],
    Discriminator(lambda value: "<mapping>" if isinstance(value, Mapping | Model) else "<list>"),
]


def _check_items(value: Any, info: ValidationInfo) -> Any:
    command = info.data.get("command")
    if value is not None and command and not any(ITEM in argument for argument in command):
        raise rule_error(f"needs a command with {ITEM} in its arguments", f"for example [pg_dump, -Fc, '{ITEM}']")
    if isinstance(value, tuple) and len(set(value)) < len(value):
        raise rule_error("must name each item once")
    return value


class CommandConfig(Model):
    """A command whose output a job backs up."""

    command: Arguments = Field(
        description="The program and its arguments, without a shell; what it writes to standard output is stored "
        "while it runs, but only if it exits with 0. A password belongs in the environment or in a file: the list "
        "of processes and `config show` print the arguments.",
        examples=[["pg_dump", "-Fc", "shop"]],
    )
    min_bytes: Size = Field(
        default=1,
        description="Output that is smaller is an error, and nothing is stored. Empty output always is.",
        examples=["1MiB"],
        json_schema_extra={"default": 1},
    )
    timeout: Seconds | None = Field(
        default=None,
        description="The command is ended, and nothing is stored, when it and the upload of its output take "
        "longer. Left out, there is no limit.",
        examples=["2h"],
    )
    for_each: Annotated[Items | None, AfterValidator(_check_items)] = Field(
        default=None,
        description="Run the command once for each item of a list, or for each line that another command writes, "
        "with the item in place of {item} in its arguments and in `destination`. An item that fails fails alone.",
        examples=[["shop", "crm"], {"command": ["psql", "-At", "-c", "select datname from pg_database"]}],
    )
    parallel: PositiveCount = Field(
        default=1,
        description="So many items at the same time, each with the `memory` of the replication set.",
        examples=[2],
    )

    @property
    def label(self) -> str:
        """What messages call the source."""
        return self.command[0]


JobSource = Annotated[
    Annotated[SourceConfig, Tag("<path>")] | Annotated[CommandConfig, Tag("<command>")],
    Discriminator(lambda value: "<command>" if _has_command(value) else "<path>"),
]


def _has_command(value: Any) -> bool:
    return isinstance(value, CommandConfig) or (isinstance(value, Mapping) and "command" in value)


def _percent(value: Any) -> float:
    found = re.fullmatch(r"([0-9]{1,3})\s*%", value) if isinstance(value, str) else None
    if isinstance(value, float) and 0 <= value <= 1:
        return value
    if found is None or int(found[1]) > 100:
        raise rule_error("must be a percentage", "from 0% to 100%")
    return int(found[1]) / 100


Percent = Annotated[
    float,
    BeforeValidator(_percent),
    PlainSerializer(lambda value: f"{value * 100:g}%", return_type=str, when_used="json"),
    schema({"type": "string", "pattern": "^[0-9]{1,3} *%$"}),
]


class ShrinkConfig(Model):
    """What to do about an object that is much smaller than the last of its series."""

    below: Percent = Field(
        description="The share of the size of the last object of its series that an object must have.",
        examples=["50%"],
    )
    action: Literal["warn", "fail"] = Field(
        default="warn",
        description="Warn about a smaller object, and do not prune then; or fail: nothing of it is stored.",
        examples=["fail"],
    )


Shrink = Annotated[
    Annotated[ShrinkConfig, Tag("<mapping>")] | Annotated[Percent, Tag("<percentage>")],
    Discriminator(lambda value: "<mapping>" if isinstance(value, Mapping | Model) else "<percentage>"),
]
