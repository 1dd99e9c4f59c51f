"""The group's clock: the server's time, made to stand still where the server's was set back."""

from __future__ import annotations

from typing import Final

# A retry of 2 s must not wait an hour because the server's clock was corrected by one. The turn keeps the
# last time told (`clock`) and how far it is ahead of the server's (`skew`) in the consumers' hash. Set
# forward, the clock follows: what waits comes early, and nothing tells that from time that went by.
# Only due times go by it. The age of an entry does not: its id was made by the server's own clock.
# gives the server's time and the group's, both in ms
CLOCK: Final = """
local function clock(hash)
  local time = redis.call('TIME')
  local wall = time[1] * 1000 + math.floor(time[2] / 1000)
  local kept = redis.call('HMGET', hash, 'clock', 'skew')
  return wall, math.max(wall + (tonumber(kept[2] or 0) or 0), tonumber(kept[1] or 0) or 0)
end
"""
