"""Who a worker is: its consumer name, and how our names are told from those of other programs."""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import socket

SUFFIX = ".sw"  # a consumer without it belongs to another program
RELEASED = "released"  # the consumer that owns entries that were handed back; it is no process, and counts as dead


def version() -> str:
    """Of this package."""
    return importlib.metadata.version("streamworker")


def new_token() -> str:
    """The random part of a consumer name; a supervisor chooses it for its children."""
    return secrets.token_hex(4)


def consumer_name(token: str, pid: int | None = None) -> str:
    """``host-pid-token.sw``: the consumer name of the process ``pid`` (this one by default)."""
    host = "".join(c if c.isalnum() or c in "-_." else "-" for c in socket.gethostname()) or "host"
    return f"{host}-{pid or os.getpid()}-{token}{SUFFIX}"
