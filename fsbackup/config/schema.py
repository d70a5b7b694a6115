"""The JSON Schema of a configuration file, for editors."""

from __future__ import annotations

from typing import Any

import yaml

from fsbackup.config.models import Config


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a configuration file.

    Every setting has a title, a description, examples and, where it may be left out and has one, its default.
    """
    schema = Config.model_json_schema()
    for model in (schema, *schema["$defs"].values()):
        for name, field in model["properties"].items():
            # pydantic gives no title to a field that only refers to another model.
            field.setdefault("title", name.replace("_", " ").title())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "fsbackup configuration",
        "description": "Where backups are kept, how many copies make success, and what is backed up.",
    }


def write_config(config: Config) -> str:
    """Return the resolved configuration as YAML, every secret as ``**********``."""
    text: str = yaml.safe_dump(config.show(), sort_keys=False, allow_unicode=True)
    return text
