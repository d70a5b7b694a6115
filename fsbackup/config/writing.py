"""A configuration back to YAML text, for people to read."""

from __future__ import annotations

import yaml

from fsbackup.config.models import Config


def write_config(config: Config) -> str:
    """Return the resolved configuration as YAML, every secret as ``**********``."""
    text: str = yaml.safe_dump(config.show(), sort_keys=False, allow_unicode=True)
    return text
