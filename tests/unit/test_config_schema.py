"""The JSON Schema for editors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from fsbackup.config import BACKEND_TYPES, ENVIRONMENT, config_schema

SCHEMA = config_schema()


def fields() -> Iterator[tuple[str, str, dict[str, Any], bool]]:
    """Yield model, name, schema and whether it is required, for every setting."""
    for model in (SCHEMA, *SCHEMA["$defs"].values()):
        for name, field in model["properties"].items():
            yield model["title"], name, field, name in model.get("required", ())


def test_every_setting_is_documented() -> None:
    """Each setting has a title, a description and examples, and its default unless it follows other settings."""
    for model, name, field, required in fields():
        where = f"{model}.{name}"
        assert field["title"], where
        assert field["description"].endswith("."), where
        assert field["examples"], where
        from_elsewhere = (
            name in ("min_copies", "read_order", "access_key_id", "secret_access_key")
            or "Left out, it is $" in field["description"]
        )
        assert required or "default" in field or from_elsewhere, where


def test_the_schema_knows_what_can_be_left_out() -> None:
    """Settings that the environment can give are not required of the file."""
    for kind, variables in ENVIRONMENT.items():
        model: type[BaseModel] = BACKEND_TYPES[kind]
        definition = SCHEMA["$defs"][model.__name__]
        assert definition["required"] == ["type"]
        assert set(variables) <= set(definition["properties"])


def test_unknown_settings_are_marked() -> None:
    """Editors underline a misspelt setting."""
    assert all(model["additionalProperties"] is False for model in SCHEMA["$defs"].values())
    assert SCHEMA["additionalProperties"] is False


def test_the_schema_is_one_for_editors() -> None:
    """It names its dialect, itself, and which backend a `type` selects."""
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"] == "fsbackup configuration"
    entry = SCHEMA["properties"]["backends"]["additionalProperties"]
    assert set(entry["discriminator"]["mapping"]) == set(BACKEND_TYPES)
