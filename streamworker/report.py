"""What a worker tells about itself with each heartbeat, for `streamworker workers` and everybody who looks on."""

from __future__ import annotations

from typing import Final

import msgspec

MOST_TOLD: Final = 3  # of the handlers that run; every member of a group reads the heartbeats of all others


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Who a worker is, and what it is doing.

    Attributes:
        host, pid, version: of the process.
        started: Unix time in seconds, by the worker's clock.
        at: when this was written, Unix time in seconds, by the server's clock as the worker knows it.
        http: whether it serves metrics.
        trims: whether it keeps this group's stream within what its app declared.
        running: how many handlers run.
        longest: of those that have been running for longest: entry id, handler, for how many seconds.
    """

    host: str = ""
    pid: int = 0
    version: str = ""
    started: float = 0.0
    at: float = 0.0
    http: bool = False
    trims: bool = False
    running: int = 0
    longest: tuple[tuple[str, str, float], ...] = ()


def heartbeat_value(count: int, lease: float, report: Report) -> bytes:
    """``count lease-in-ms report-as-JSON``: moves with every beat, and says how long it may stand still."""
    return b"%d %d %b" % (count, int(lease * 1000), msgspec.json.encode(report))


def lease_of(value: bytes) -> float | None:
    """The lease in seconds that a heartbeat says; None if it says none."""
    parts = value.split(b" ", 2)
    return int(parts[1]) / 1000 if len(parts) > 1 and parts[1].isdigit() else None


def report_of(value: bytes) -> Report | None:
    """What a heartbeat tells; None if it is none of ours, or of a version that told it otherwise."""
    try:
        return msgspec.json.decode(value.split(b" ", 2)[2], type=Report)
    except (IndexError, msgspec.DecodeError, UnicodeDecodeError):
        return None
