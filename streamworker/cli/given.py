"""What the command line of ``run`` said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line said; see the options."""

    names: tuple[str, ...]
    redis: str | None
    redis_file: Path | None
    workers: int
    only: tuple[str, ...]
    burst: bool
    reload: bool
    shutdown_timeout: float
    connect_timeout: float
    app_dir: str
    log_format: str
    log_level: str
    tracing: bool | None
    health_dir: Path | None
    http: str | None
    token: str | None
    replaces: tuple[str, ...]
    parent_pipe: int | None
    signs_pipe: int | None
