"""`compress` and `encrypt`: what is done to the bytes of a source before they are stored."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, WithJsonSchema

from fsbackup.config.problems import rule_error
from fsbackup.config.values import Model, PositiveCount, schema
from fsbackup.errors import ConfigError
from fsbackup.stages import age, zstd
from fsbackup.stages.plaintext import SUFFIXES


def _check_level(value: int) -> int:
    if value not in zstd.LEVELS:
        raise rule_error(f"must be at most {zstd.LEVELS[-1]}")
    return value


class CompressConfig(Model):
    """Compression, with its level."""

    zstd: Annotated[PositiveCount, AfterValidator(_check_level)] = Field(
        description="The level of Zstandard, from 1 (fast) to 19 (small).", examples=[9]
    )


def _check_kind(value: Any) -> Any:
    if value != "zstd":
        raise rule_error("must be zstd", "or with a level from 1 to 19, {zstd: 9}")
    return value


#: ``zstd``, or a mapping with its level. It can be left out, but not be empty.
_Compress = Annotated[
    Annotated[CompressConfig, Tag("<mapping>")]
    | Annotated[
        Literal["zstd"], BeforeValidator(_check_kind), schema({"type": "string", "const": "zstd"}), Tag("<text>")
    ],
    Discriminator(lambda value: "<mapping>" if isinstance(value, Mapping | Model) else "<text>"),
]


def _check_recipient(value: str, info: ValidationInfo) -> str:
    """Return a recipient as it is, and ``file:`` with an absolute path; a private key is never repeated."""
    if value.startswith(age.FILE_PREFIX):
        context = info.context or {}
        path = value.removeprefix(age.FILE_PREFIX)
        home = context.get("home")
        if home and path.startswith("~/"):
            path = home + path[1:]
        value = f"{age.FILE_PREFIX}{Path(context.get('directory') or '.', os.path.expanduser(path)).absolute()}"
    try:
        age.read_recipients([value])
    except ConfigError as error:
        raise rule_error(error.message, error.hint or "") from None
    return value


def _check_some(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise rule_error("must name at least one public key")
    return value


def _given(value: Any, info: ValidationInfo) -> Any:
    """Refuse a setting that is empty in a file: what somebody meant to be encrypted would be in the clear."""
    if value is None and info.context:
        raise rule_error("must not be empty")
    return value


class EncryptConfig(Model):
    """Encryption, with those who can decrypt."""

    age: Annotated[
        tuple[Annotated[str, AfterValidator(_check_recipient)], ...],
        AfterValidator(_check_some),
        WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 1}),
    ] = Field(
        description="The public keys to encrypt to: of age (age1...) or SSH (ssh-ed25519, ssh-rsa), or file:PATH "
        "of a file with one on each line. Whoever has the private key of any of them can decrypt. A relative path "
        "starts at this file's own directory; ~ is the home directory.",
        examples=[["age1...", "file:/etc/recipients"]],
    )


Compress = Annotated[_Compress | None, BeforeValidator(_given)]
Encrypt = Annotated[EncryptConfig | None, BeforeValidator(_given)]


def suffix_of(compress: CompressConfig | str | None, encrypt: EncryptConfig | None) -> str:
    """Return what the stages add to the key."""
    return (SUFFIXES["zstd"] if compress else "") + (SUFFIXES["age"] if encrypt else "")
