"""Publishes the flights, each exactly once, however many workers start and whichever of them are killed.

``app.publish_many`` would be one line. But a loader that is killed between publishing a batch and writing
down how far it is would publish that batch again when it goes on. So here one script does both, and both
happen or neither does. The position is also the fence: a loader that was thought dead and wakes up finds
that the position has moved, and publishes nothing twice. The lock only saves the others the work.
"""

from __future__ import annotations

import asyncio
import uuid

import msgspec
from redis.asyncio import Redis

from examples.flights.data import STREAM, flights

# KEYS  the stream, the position (rows published so far), the lock
# ARGV  this loader's token, seconds the lock holds, rows in all, the row where this batch begins, its bodies…
# Returns the row to go on with (all of them: nothing is left to do), or -1 while another loader holds the lock.
# An empty stream begins at row 0; a stream with entries of somebody else is left alone.
_PUBLISH = """
local total = tonumber(ARGV[3])
local row = 0
if redis.call('XLEN', KEYS[1]) > 0 then
  row = tonumber(redis.call('GET', KEYS[2]) or total)
end
if row >= total then return total end
local holder = redis.call('GET', KEYS[3])
if holder and holder ~= ARGV[1] then return -1 end
redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[2])
if row ~= tonumber(ARGV[4]) then return row end
for i = 5, #ARGV do
  redis.call('XADD', KEYS[1], '*', 'data', ARGV[i])
end
row = row + #ARGV - 4
redis.call('SET', KEYS[2], row)
if row >= total then redis.call('DEL', KEYS[3]) end
return row
"""
_KEYS = [STREAM, f"{{{STREAM}}}:loaded", f"{{{STREAM}}}:loader"]  # the braces keep them on one node of a Cluster
_BATCH = 500
_LOCK_HOLDS = 2  # seconds; a batch takes some milliseconds
_LOOK_AGAIN = 0.1  # seconds, while another loader is at work


async def load(redis: Redis) -> None:
    """Return when all flights are in the stream, published by whomever."""
    bodies = [msgspec.json.encode(flight) for flight in flights()]
    publish = redis.register_script(_PUBLISH)
    token = uuid.uuid4().hex
    row = 0
    while row < len(bodies):
        batch = bodies[row : row + _BATCH]
        answer = int(await publish(keys=_KEYS, args=[token, _LOCK_HOLDS, len(bodies), row, *batch]))
        if answer < 0:
            await asyncio.sleep(_LOOK_AGAIN)
        else:
            row = answer
