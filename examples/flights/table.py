"""The table, made of the results in Redis."""

from __future__ import annotations

import os
import socket
from collections import Counter

from redis.asyncio import Redis

from examples.flights.data import STREAM
from examples.flights.results import DEPARTED, LATE

DEAD = f"{{{STREAM}}}:board:dead"  # the dead letters of group ``board``, kept by streamworker

# The workers of one command (``--workers 4``) have the same parent; one of them prints for all.
_PRINTED = f"flights:printed:{socket.gethostname()}:{os.getppid()}"


async def prepare(redis: Redis) -> None:
    """Let the next ``print_once`` print: the last run may have been a moment ago."""
    await redis.delete(_PRINTED)


async def print_once(redis: Redis) -> None:
    """Print the table, unless another worker of the same command has done so."""
    if await redis.set(_PRINTED, 1, nx=True, ex=60):
        print(await as_text(redis), flush=True)


async def as_text(redis: Redis) -> str:
    """Departures, mean delay and late departures of each airline, and the sums."""
    departed: Counter[str] = Counter()
    minutes: Counter[str] = Counter()
    for value in await redis.hvals(DEPARTED):
        carrier, delay = _text(value).split()
        departed[carrier] += 1
        minutes[carrier] += int(delay)
    late = Counter(_text(value).split()[0] for value in await redis.hvals(LATE))
    lines = ["airline  departed  mean delay  60 min late"]
    for carrier, number in departed.most_common():
        lines.append(f"{carrier:7}  {number:8,}  {minutes[carrier] / number:10.2f}  {late[carrier]:11,}")
    lines.append(
        f"{len(departed)} airlines, {departed.total():,} departed, {await redis.xlen(DEAD):,} dead letters, "
        f"{late.total():,} late"
    )
    return "\n".join(lines)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
