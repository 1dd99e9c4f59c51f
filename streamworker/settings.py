"""What the environment says, read in this one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from streamworker.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Settings:
    """The environment's part of the configuration.

    Attributes:
        redis_url: where Redis is, or None; may hold a password, so it is not shown.
        redis_url_from: the variable that said so.
        embedded: False forbids the embedded server.
    """

    redis_url: str | None = field(repr=False)
    redis_url_from: str
    embedded: bool


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of the process; a variable that is empty counts as not set.

    Raises:
        ConfigError: a variable has a value that means nothing.
    """
    choice = environment.get("STREAMWORKER_EMBEDDED") or "auto"
    if choice not in ("auto", "never"):
        raise ConfigError(
            f"STREAMWORKER_EMBEDDED={choice!r}, but it must be 'auto' (an embedded server where no Redis URL "
            "is given) or 'never'"
        )
    names = ("STREAMWORKER_REDIS_URL", "REDIS_URL")
    name = next((name for name in names if environment.get(name)), names[0])
    return Settings(environment.get(name) or None, name, embedded=choice == "auto")
