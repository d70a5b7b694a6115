"""The configuration: a YAML file and the environment, checked as a whole before anything is done.

It only says what is wanted. Backends are made from it by the factory, destinations are rendered by jobs.
"""

from fsbackup.config.backends import (
    BACKEND_TYPES,
    B2Config,
    BackendConfig,
    FsspecConfig,
    LocalConfig,
    R2Config,
    RetentionConfig,
    S3Config,
)
from fsbackup.config.loading import find_config, load_config, parse_config
from fsbackup.config.models import Config, JobConfig, ReplicationConfig, SpoolConfig
from fsbackup.config.postgres import ArchiveRetentionConfig, PostgresConfig
from fsbackup.config.problems import InvalidConfigError, Mistake
from fsbackup.config.schema import config_schema
from fsbackup.config.snapshot import ConfigLike, Snapshot, take
from fsbackup.config.sources import CommandConfig, ForEachConfig, SourceConfig
from fsbackup.config.stages import CompressConfig, EncryptConfig
from fsbackup.config.units import format_duration, format_size, parse_duration, parse_size
from fsbackup.config.variables import ENVIRONMENT

__all__ = [
    "BACKEND_TYPES",
    "ENVIRONMENT",
    "ArchiveRetentionConfig",
    "B2Config",
    "BackendConfig",
    "CommandConfig",
    "CompressConfig",
    "Config",
    "ConfigLike",
    "EncryptConfig",
    "ForEachConfig",
    "FsspecConfig",
    "InvalidConfigError",
    "JobConfig",
    "LocalConfig",
    "Mistake",
    "PostgresConfig",
    "R2Config",
    "ReplicationConfig",
    "RetentionConfig",
    "S3Config",
    "Snapshot",
    "SourceConfig",
    "SpoolConfig",
    "config_schema",
    "find_config",
    "format_duration",
    "format_size",
    "load_config",
    "parse_config",
    "parse_duration",
    "parse_size",
    "take",
]
