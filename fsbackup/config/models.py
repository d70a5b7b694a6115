"""The configuration as a whole: backends, replication sets, jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from fsbackup.config.backends import BackendConfig
from fsbackup.config.postgres import PostgresConfig
from fsbackup.config.problems import dotted, rule_error
from fsbackup.config.references import check_references
from fsbackup.config.sources import CommandConfig, JobSource, Shrink, ShrinkConfig
from fsbackup.config.stages import Compress, Encrypt, suffix_of
from fsbackup.config.template import (
    FIELDS_OF_COMMAND,
    FIELDS_OF_FILE,
    FIELDS_OF_ITEM,
    PER_FILE,
    check_template,
)
from fsbackup.config.values import (
    FilePath,
    Flag,
    Model,
    Name,
    PositiveCount,
    Seconds,
    Size,
    Text,
    between,
)
from fsbackup.redact import redact_values
from fsbackup.sizing import MIB, STREAM_PART_SIZE


def _check_unique(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise rule_error("must name at least one backend")
    if len(set(value)) < len(value):
        raise rule_error("must name each backend once")
    return value


def _check_min_copies(value: int, info: ValidationInfo) -> int:
    backends = info.data.get("backends", ())
    if backends and value > len(backends):
        raise rule_error(f"must be at most {len(backends)}", "the number of backends in the set")
    return value


def _check_append(value: bool, info: ValidationInfo) -> bool:
    backends, copies = info.data.get("backends", ()), info.data.get("min_copies")
    if value and copies is not None and 2 * copies <= len(backends):
        raise rule_error(
            f"needs min_copies {len(backends) // 2 + 1}, more than half of the backends",
            "otherwise two that append at the same time could both be told that theirs is stored",
        )
    return value


#: Backends, and groups of backends.
ReadOrder = tuple[
    Annotated[
        Annotated[str, Tag("<name>")] | Annotated[tuple[str, ...], Tag("<group>")],
        Discriminator(lambda value: "<group>" if isinstance(value, list | tuple) else "<name>"),
    ],
    ...,
]


def _check_read_order(value: ReadOrder, info: ValidationInfo) -> ReadOrder:
    backends = info.data.get("backends")
    named = [name for each in value for name in ((each,) if isinstance(each, str) else each)]
    if backends and (sorted(backends) != sorted(named) or () in value):
        raise rule_error("must name every backend of the set, each once, and no other")
    return value


class SpoolConfig(Model):
    """Room on disk for a stream that a slow backend could not take yet."""

    dir: FilePath = Field(
        description="The directory. A relative one starts at this file's own directory; ~ is the home directory.",
        examples=["/var/tmp/fsbackup"],
    )
    max_bytes: Size = Field(description="The most it may take.", examples=["20GiB"])


class ReplicationConfig(Model):
    """A named list of backends that each hold a copy."""

    backends: Annotated[tuple[str, ...], AfterValidator(_check_unique)] = Field(
        description="The backends, by name.", examples=[["local", "r2", "b2"]]
    )
    min_copies: Annotated[PositiveCount, AfterValidator(_check_min_copies)] = Field(
        default_factory=lambda data: len(data["backends"]),
        description="Confirmed copies that make success. Left out, it is all of them.",
        examples=[2],
    )
    read_order: Annotated[ReadOrder, AfterValidator(_check_read_order)] = Field(
        default_factory=lambda data: (tuple(data["backends"]),),
        description="Which backends to read from, first to last; those of a list in it share the work. A later "
        "one is read only when no earlier one can deliver. Left out, all share the work.",
        examples=[["local", ["r2", "b2"]]],
    )
    memory: Annotated[Size, between(STREAM_PART_SIZE)] = Field(
        default=64 * MIB,
        description="Bytes of parts in flight for the whole set, at least 16MiB and one part of each backend.",
        examples=["64MiB"],
        json_schema_extra={"default": "64MiB"},
    )
    stall_timeout: Seconds = Field(
        default=10.0,
        description="The longest silence of a replica while it is read, before another one is asked.",
        examples=["10s"],
        json_schema_extra={"default": "10s"},
    )
    unproven: Literal["warn", "raise", "allow"] = Field(
        default="warn",
        description="What a read does when too few backends answer to prove that it reads the newest version.",
        examples=["raise"],
    )
    append: Annotated[Flag, AfterValidator(_check_append)] = Field(
        default=False,
        description="Files of `fsbackup://` may be opened to append (mode 'a'), up to 64MiB: the object is read, "
        "and replaced as a whole if it is still the same one. It needs `min_copies` to be more than half of the "
        "backends.",
        examples=[True],
    )
    spool: SpoolConfig | None = Field(
        default=None,
        description="Where a stream waits for a backend that fell behind. Left out, the stream is slowed instead.",
        examples=[{"dir": "/var/tmp/fsbackup", "max_bytes": "20GiB"}],
    )


def _check_destination(value: str, info: ValidationInfo) -> str:
    source = info.data.get("source")
    if source is None:  # it has its own mistake, and nothing is known of it
        check_template(value, (*FIELDS_OF_FILE, "item"))
    elif isinstance(source, CommandConfig):
        _check_command_destination(value, source)
    elif source.archive:
        if "{name}" in value or "{relpath}" in value:
            raise rule_error("must not have {name} or {relpath}", "an archive is one object")
        check_template(value, FIELDS_OF_COMMAND)
    elif not check_template(value, FIELDS_OF_FILE) & PER_FILE and source.may_match_many:
        raise rule_error(
            "must have {name} or {relpath}", "the source can be many files, and each needs its own key"
        )
    return value


def _check_command_destination(value: str, source: CommandConfig) -> None:
    if "{name}" in value or "{relpath}" in value:
        raise rule_error("must not have {name} or {relpath}", "a command has no file")
    used = check_template(value, FIELDS_OF_ITEM if source.for_each else FIELDS_OF_COMMAND)
    if source.for_each and "item" not in used:
        raise rule_error("must have {item}", "each item needs its own key")


class JobConfig(Model):
    """Source to replication set, as one entry."""

    source: JobSource = Field(
        description="What to back up: files by their `path`, or what a `command` writes.",
        examples=[{"path": "/srv/dumps/db.sql.gz"}, {"command": ["pg_dump", "-Fc", "shop"]}],
    )
    destination: Annotated[Text, AfterValidator(_check_destination)] = Field(
        description="The key of each file, with the fields {now:%Y/%m} (any strftime format), {name}, {relpath} "
        "(keeps a directory's tree), {hostname} and {job}; a command's key has {item} instead of {name} and "
        "{relpath}. Keys that differ only in what {now} made are "
        "versions of one thing: only of these does a `retention` let older ones go.",
        examples=["backups/full/{now:%Y/%m}/{name}", "wal/{relpath}"],
    )
    replication: Text = Field(description="The replication set, by name.", examples=["triple"])
    compress: Compress = Field(
        default=None,
        description="Compress what is stored, by zstd, or with a level from 1 to 19 by {zstd: 9}; .zst is added "
        "to the key. Left out, nothing is compressed.",
        examples=["zstd", {"zstd": 9}],
    )
    encrypt: Encrypt = Field(
        default=None,
        description="Encrypt what is stored (after it was compressed), by age to the public keys that are listed; "
        ".age is added to the key. Left out, nothing is encrypted.",
        examples=[{"age": ["age1..."]}],
    )
    overwrite: Flag = Field(
        default=False,
        description="Replace other content under the same key instead of refusing. What a command or "
        "`archive: tar` writes is stored in any case then, also when it is the same again.",
        examples=[False],
    )
    allow_empty: Flag = Field(
        default=False,
        description="A source without any file is success. Otherwise a job that backs up nothing has failed.",
        examples=[False],
    )
    prune: Flag = Field(
        default=False,
        description="After a run that stored everything, let go below the part of `destination` before its first "
        "field what the backends' retention no longer keeps, but nothing that the run found at its source. This "
        "lists the whole set twice.",
        examples=[True],
    )
    shrink: Shrink | None = Field(
        default=None,
        description="Warn when an object has less than so much of the size of the last of its series, and do not "
        "prune then; with `{below: 50%, action: fail}` nothing of it is stored. The keys of the series are listed "
        "for it. Left out, it is 50% for a command, and 0% (never) for files.",
        examples=["50%", {"below": "50%", "action": "fail"}],
    )

    @property
    def suffix(self) -> str:
        """What compression and encryption add to the keys: ``.zst.age``."""
        return suffix_of(self.compress, self.encrypt)

    @property
    def key_template(self) -> str:
        """The template of whole keys: `destination` and `suffix`."""
        return self.destination + self.suffix

    @property
    def shrink_below(self) -> float:
        """The share in `shrink` as a fraction, with what it is when it is left out."""
        if self.shrink is not None:
            return self.shrink.below if isinstance(self.shrink, ShrinkConfig) else self.shrink
        return 0.5 if isinstance(self.source, CommandConfig) else 0.0

    @property
    def refuses_shrunk(self) -> bool:
        """Whether an object that is too small beside the last of its series is not stored."""
        return isinstance(self.shrink, ShrinkConfig) and self.shrink.action == "fail"


def _version(value: Any) -> Any:
    if value != 1 or isinstance(value, bool):
        raise rule_error("must be 1", "this fsbackup reads version 1 of the configuration only")
    return 1


class Config(Model):
    """A whole configuration. Made by `load_config` and `parse_config`.

    Relative paths in it have become absolute, variables their values, and every name in it exists.
    """

    version: Annotated[Literal[1], BeforeValidator(_version)] = Field(
        description="The version of this file's format.", examples=[1]
    )
    backends: Mapping[Name, BackendConfig] = Field(
        min_length=1,
        description="The storage places, by name.",
        examples=[{"disk": {"type": "local", "path": "/var/backups"}}],
    )
    replication: Mapping[Name, ReplicationConfig] = Field(
        default_factory=dict,
        description="The replication sets, by name.",
        examples=[{"triple": {"backends": ["local", "r2", "b2"], "min_copies": 2}}],
        json_schema_extra={"default": {}},
    )
    jobs: Mapping[Name, JobConfig] = Field(
        default_factory=dict,
        description="What `fsbackup run` does, by name.",
        examples=[
            {
                "nightly": {
                    "source": {"path": "/srv/dumps/db.sql.gz"},
                    "destination": "backups/full/{now:%Y/%m}/{name}",
                    "replication": "triple",
                }
            }
        ],
        json_schema_extra={"default": {}},
    )
    postgres: Mapping[Name, PostgresConfig] = Field(
        default_factory=dict,
        description="PostgreSQL clusters whose WAL and base backups are archived, by name.",
        examples=[{"shop": {"replication": "wal", "prefix": "pg/shop"}}],
        json_schema_extra={"default": {}},
    )

    state_dir: FilePath | None = Field(
        default=None,
        description="Where this machine keeps the locks of jobs, what it has seen of files and replicas, and "
        "which backends do not answer. Left out, it is $XDG_STATE_HOME/fsbackup, and without that "
        "/var/lib/fsbackup for root and ~/.local/state/fsbackup for others.",
        examples=["/var/lib/fsbackup"],
    )

    identity_key_file: FilePath | None = Field(
        default=None,
        description="A secret of this machine, by which a source that was encrypted before is recognised as the "
        "same; made when it is missing. Left out, it is identity.key in the state directory (see state_dir).",
        examples=["/etc/fsbackup/identity.key"],
    )

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        # A file's are found before this, with its other mistakes; this is for a Config made in Python.
        violations: Sequence[Any] = check_references(self.model_dump())
        if violations:
            raise rule_error("; ".join(f"{dotted(found.loc)} {found.problem}" for found in violations))
        return self

    def show(self) -> dict[str, Any]:
        """Return the resolved configuration as plain values, every secret as ``**********``.

        Defaults are filled in, durations and sizes written as in a file, settings without a value left out.
        """
        shown: dict[str, Any] = redact_values(self.model_dump(mode="json", exclude_none=True), but=frozenset())
        return shown
