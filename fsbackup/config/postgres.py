"""The settings of PostgreSQL clusters whose WAL and base backups are archived."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from fsbackup.config.problems import rule_error
from fsbackup.config.stages import Compress, Encrypt
from fsbackup.config.values import Duration, FilePath, Model, PositiveCount, Prefix, Seconds, Text, Workers

_PASSWORD = re.compile(r"(?:^|\s)(?:ssl)?password\s*=|://[^/@]*:[^/@]*@", re.IGNORECASE)


def _check_conninfo(value: str) -> str:
    if _PASSWORD.search(value):
        raise rule_error("must not hold a password", "put it into ~/.pgpass, or a service file: service=shop")
    return value


def _check_prefix(value: str) -> str:
    if not value:
        raise rule_error("must not be empty", "for example pg/shop")
    return value


class ArchiveRetentionConfig(Model):
    """How long base backups are kept, and with them the WAL that they need."""

    window: Duration | None = Field(
        default=None,
        description="How far back one can go: the newest base backup that had ended by then is kept, and all "
        "later ones. Left out, only min_bases counts.",
        examples=["35d"],
    )
    min_bases: PositiveCount = Field(
        default=1, description="So many of the newest base backups are kept at any age.", examples=[4]
    )

    @model_validator(mode="after")
    def _lets_something_go(self) -> ArchiveRetentionConfig:
        if not self.model_fields_set:
            raise rule_error("must say what to keep", "window: 35d, or min_bases: 4, or both")
        return self


class PostgresConfig(Model):
    """A PostgreSQL cluster (all databases of one server) whose WAL and base backups are archived."""

    replication: Text = Field(description="The replication set, by name.", examples=["wal"])
    prefix: Annotated[Prefix, AfterValidator(_check_prefix)] = Field(
        description="Where its archive is: a prefix that no other cluster and no job has. After an upgrade of "
        "PostgreSQL to a new major version it is a new cluster, which needs a new one.",
        examples=["pg/shop"],
    )
    conninfo: Annotated[Text, AfterValidator(_check_conninfo)] | None = Field(
        default=None,
        description="How to connect to it for a base backup, as libpq has it, without a password. Left out, "
        "libpq's environment says it: PGHOST, PGSERVICE and so on.",
        examples=["service=shop"],
    )
    compress: Compress = Field(
        default=None,
        description="Compress segments and base backups: `zstd`, or with a level, {zstd: 9}; .zst is added to the "
        "key. Left out, nothing is compressed.",
        examples=["zstd"],
    )
    encrypt: Encrypt = Field(
        default=None,
        description="Encrypt segments and base backups by age to the public keys that are listed; .age is added "
        "to the key. Who restores needs an identity. Left out, nothing is encrypted.",
        examples=[{"age": ["age1...", "file:/etc/fsbackup/recipients"]}],
    )
    spool: FilePath | None = Field(
        default=None,
        description="A directory for what workers do ahead. The first `wal-push` starts one that sends `workers` "
        "files at once, and later calls find theirs confirmed; the first `wal-fetch` starts one that keeps twice "
        "as many of the next segments there. Left out, each call does its own. A relative path starts at this "
        "file's own directory; ~ is the home directory.",
        examples=["/var/spool/fsbackup"],
    )
    workers: Workers = Field(
        default=4, description="Files that the worker of `spool` sends at once, at most 64.", examples=[4]
    )
    patience: Seconds = Field(
        default=5.0,
        description="How long `wal-fetch` asks again where it is not known whether a segment exists, or one is "
        "missing while later ones are there: segments that are on their way close such gaps.",
        examples=["5s"],
        json_schema_extra={"default": "5s"},
    )
    retention: ArchiveRetentionConfig | None = Field(
        default=None,
        description="Which base backups `prune` keeps. WAL goes only when no kept base backup needs it, whatever "
        "the retention of the backends says. Left out, everything is kept.",
        examples=[{"window": "35d", "min_bases": 4}],
    )
