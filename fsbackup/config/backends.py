"""The settings of each type of backend. They say where and how; opening one is the factory's business."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Secret, ValidationInfo, model_validator

from fsbackup.config.problems import rule_error
from fsbackup.config.secret_files import FROM_FILE
from fsbackup.config.values import (
    Bucket,
    Count,
    Credential,
    Duration,
    Endpoint,
    FilePath,
    Flag,
    HostPart,
    Model,
    PositiveCount,
    Prefix,
    S3PartSize,
    Seconds,
    Size,
    Text,
    Url,
)
from fsbackup.config.variables import ENVIRONMENT


def _names_series(value: str) -> str:
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise rule_error("must be a regular expression", str(error)) from None
    if not groups:
        raise rule_error("must have a group", "put what names the series in parentheses")
    return value


class RetentionConfig(Model):
    """How long a backend keeps the versions of each series. What any rule keeps stays, as do all other keys."""

    max_age: Duration | None = Field(
        default=None,
        description="Backups up to this age are kept. With it, a backup is let go when it is older and no keep_* "
        "holds it. Left out, whatever no keep_* holds is let go at any age.",
        examples=["30d", "365d"],
    )
    keep_last: PositiveCount = Field(
        default=1,
        description="The newest so many backups of each series are kept at any age. Alone it lets nothing go.",
        examples=[7],
    )
    keep_daily: Count = Field(
        default=0,
        description="The newest backup of each day is kept, for the newest so many days that have any. "
        "Days are in local time, as {now} is.",
        examples=[14],
    )
    keep_weekly: Count = Field(default=0, description="The same with weeks, which begin on Monday.", examples=[8])
    keep_monthly: Count = Field(default=0, description="The same with months.", examples=[12])
    keep_yearly: Count = Field(default=0, description="The same with years.", examples=[3])
    series: Annotated[Text, AfterValidator(_names_series)] | None = Field(
        default=None,
        description="A regular expression, searched in the key: what its groups match names the series. Left out, "
        "and for keys it is not found in, a series is what the {now} of a job's destination makes of one file. "
        "Every other key is a series of its own and is kept.",
        examples=["^backups/([^/]+)/.*/([^/]+)"],
    )

    @model_validator(mode="after")
    def _lets_something_go(self) -> RetentionConfig:
        if not (self.max_age or self.keep_daily or self.keep_weekly or self.keep_monthly or self.keep_yearly):
            raise rule_error("must say what to let go", "max_age: 30d, or keep_daily, keep_weekly and so on")
        return self


class _Backend(Model):
    # Each type narrows it; declared here so that it comes first in what is shown.
    type: str

    timeout: Seconds = Field(
        default=60.0,
        description="The longest silence allowed, no byte moved, before the backend counts as away. A service "
        "that is busy or refuses connections is tried again as long. Not a total.",
        examples=["60s", "5m"],
        json_schema_extra={"default": "60s"},
    )
    part_size: Size | None = Field(
        default=None,
        description="Bytes sent at a time. Left out, it grows with the file, from 8MiB.",
        examples=["16MiB"],
    )
    retention: RetentionConfig | None = Field(
        default=None,
        description="How long this backend keeps backups. Left out, it keeps them all.",
        examples=[{"max_age": "30d", "keep_last": 7}],
    )


class LocalConfig(_Backend):
    """A directory on this machine."""

    type: Literal["local"] = Field(description="A directory.", examples=["local"])
    path: FilePath = Field(
        default="/var/backups/jewelry-shop",
        description="The directory. A relative one starts at this file's own directory; ~ is the home directory. "
        "Left out, it is $BACKUP_LOCAL_PATH.",
        examples=["/var/backups/jewelry-shop", "${BACKUP_LOCAL_PATH:-/var/backups/jewelry-shop}"],
    )
    create: Flag = Field(
        default=True,
        description="Make the directory when it is missing. False for a mount that may be absent.",
        examples=[True],
    )


class _Bucket(_Backend):
    bucket: Bucket = Field(description="The bucket, which must exist.", examples=["securesyntax"])
    access_key_id: Credential = Field(
        description="The access key's id; or access_key_id_file.", examples=["${ACCESS_KEY_ID}"]
    )
    secret_access_key: Credential = Field(
        description="The secret of the access key; or secret_access_key_file.", examples=["${SECRET_ACCESS_KEY}"]
    )
    session_token: Credential | None = Field(
        default=None, description="The token of a temporary access key.", examples=["${SESSION_TOKEN}"]
    )
    access_key_id_file: FilePath | None = Field(
        default=None,
        description="Instead of access_key_id: a file with it on the first line. A relative path starts at this "
        "file's own directory; ~ is the home directory.",
        examples=["/etc/fsbackup/access-key-id"],
    )
    secret_access_key_file: FilePath | None = Field(
        default=None,
        description="Instead of secret_access_key: a file with it on the first line.",
        examples=["/etc/fsbackup/secret-access-key"],
    )
    session_token_file: FilePath | None = Field(
        default=None,
        description="Instead of session_token: a file with it on the first line.",
        examples=["/etc/fsbackup/session-token"],
    )
    max_concurrency: PositiveCount = Field(
        default=4, description="Parts on their way to this backend at once.", examples=[4]
    )
    addressing: Literal["path", "virtual"] | None = Field(
        default=None,
        description="Where the bucket's name is in a URL: in the path, or (virtual) in the host's name. Left out, "
        "it is in the path; for AWS in the host's name, unless it has dots.",
        examples=["virtual"],
    )
    prefix: Prefix = Field(
        default="", description="Put before every key, to share a bucket.", examples=["shop/backups"]
    )
    ca_bundle: FilePath | None = Field(
        default=None,
        description="PEM file of the authorities to trust instead of the system's. A relative path starts at this "
        "file's own directory.",
        examples=["/etc/ssl/our-ca.pem"],
    )
    records: Literal["inside", "beside"] = Field(
        default="inside",
        description="Where the record that proves an object is: in the object's own metadata, or beside it as an "
        "object of its own, for a service that does not keep user metadata and a bucket that was filled that way.",
        examples=["beside"],
    )
    part_size: S3PartSize | None = Field(
        default=None,
        description="Bytes of one part of an upload, 5MiB to 5GiB. Left out, it grows with the file, from 8MiB.",
        examples=["16MiB"],
    )


def _left_out(kind: str) -> ConfigDict:
    """Return the settings of a model some of whose fields may come from the environment or from files."""

    def loosen(schema: dict[str, Any]) -> None:
        variables = ENVIRONMENT.get(kind, {})
        for name, variable in variables.items():
            schema["properties"][name]["description"] += f" Left out, it is ${variable}."
        elsewhere = {*variables, *FROM_FILE}
        schema["required"] = [name for name in schema["required"] if name not in elsewhere]

    return ConfigDict(json_schema_extra=loosen)


def _account_or_endpoint(value: str | None, info: ValidationInfo) -> str | None:
    if value is None and "endpoint_url" in info.data and info.data["endpoint_url"] is None:
        raise rule_error("is missing", "set R2_ACCOUNT_ID, or write it or endpoint_url here")
    return value


class R2Config(_Bucket):
    """A bucket of Cloudflare R2."""

    model_config = _left_out("r2")

    type: Literal["r2"] = Field(description="Cloudflare R2.", examples=["r2"])
    endpoint_url: Endpoint | None = Field(
        default=None,
        description="Instead of the account's own endpoint, for example one of a jurisdiction.",
        examples=["https://b7900eeee7c415345d86ea859c9dad47.eu.r2.cloudflarestorage.com"],
    )
    # Declared after endpoint_url, which its rule looks at.
    account_id: Annotated[HostPart | None, AfterValidator(_account_or_endpoint)] = Field(
        default=None,
        validate_default=True,
        description="The account's id. Not needed with endpoint_url.",
        examples=["b7900eeee7c415345d86ea859c9dad47"],
    )


class B2Config(_Bucket):
    """A bucket of Backblaze B2, through its S3 interface."""

    model_config = _left_out("b2")

    type: Literal["b2"] = Field(description="Backblaze B2.", examples=["b2"])
    region: HostPart = Field(description="The bucket's region.", examples=["us-east-005"])
    endpoint_url: Endpoint | None = Field(
        default=None,
        description="Instead of the region's own endpoint.",
        examples=["https://s3.us-east-005.backblazeb2.com"],
    )


class S3Config(_Bucket):
    """A bucket of any other S3 service."""

    model_config = _left_out("s3")

    type: Literal["s3"] = Field(description="Any S3 service.", examples=["s3"])
    region: HostPart = Field(default="us-east-1", description="The region to sign for.", examples=["eu-central-1"])
    endpoint_url: Endpoint | None = Field(
        default=None, description="The service's URL. Left out, it is AWS.", examples=["http://127.0.0.1:9000"]
    )


class FsspecConfig(_Backend):
    """Anything fsspec has a filesystem for."""

    type: Literal["fsspec"] = Field(description="Any fsspec filesystem.", examples=["fsspec"])
    url: Url = Field(
        description="The fsspec URL of the directory, without a password.", examples=["sftp://nas/backups"]
    )
    options: Mapping[str, Secret[Any]] = Field(
        default_factory=dict,
        description="What the filesystem is opened with. Every value is treated as a secret.",
        examples=[{"username": "backup", "password": "${NAS_PASSWORD}"}],
        json_schema_extra={"default": {}},
    )
    confirm: Literal["checksum", "size"] = Field(
        default="checksum",
        description="How a stored copy is confirmed: read back and compared, or by its size alone.",
        examples=["size"],
    )

    @property
    def storage_options(self) -> dict[str, Any]:
        """`options` with their values in the clear, for opening the filesystem and nothing else."""
        return {name: value.get_secret_value() for name, value in self.options.items()}


def _lower_type(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        return {**value, "type": value["type"].lower()}
    return value


#: The settings of a backend of any type; `type` says which.
BackendConfig = Annotated[
    Annotated[LocalConfig | R2Config | B2Config | S3Config | FsspecConfig, Field(discriminator="type")],
    BeforeValidator(_lower_type),
]

#: By type name.
BACKEND_TYPES: Mapping[str, type[Model]] = {
    "local": LocalConfig,
    "r2": R2Config,
    "b2": B2Config,
    "s3": S3Config,
    "fsspec": FsspecConfig,
}
