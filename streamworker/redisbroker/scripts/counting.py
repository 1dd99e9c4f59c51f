"""Counting what lies in a stream, and what does not any more."""

from __future__ import annotations

from typing import Final

from streamworker.redisbroker.link import Script
from streamworker.redisbroker.scripts.ids import LATER, NAMED

# What was trimmed before this group read it. The server keeps no such number, and its `entries-read` leaps over
# what is gone; but as long as the first entry lies behind the last one delivered, the two positions differ by it.
# `skipped` in the hash is the position up to which it was counted, so that the fleet counts it once, and `trimmed`
# all that was ever found, for monitoring. A group
# made by another program is counted from the first look on. 6.2 keeps no positions: there it gives 0.
# XINFO builds the first and the last entry, which may be large, so this is no part of every turn.
# KEYS  stream, consumers
# ARGV  group
# gives how many were found now
SKIPPED: Final = Script(
    LATER
    + NAMED
    + """
redis.call('HDEL', KEYS[2], '')
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err then return 0 end
info = named(info)
if not info['entries-added'] then return 0 end
local gone = info['entries-added'] - info['length']
local known = tonumber(redis.call('HGET', KEYS[2], 'skipped') or -1)
local lost = 0
if known >= 0 and gone > known then
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = named(flat)
    if group['name'] == ARGV[1] and group['entries-read'] then
      local first = info['first-entry']
      if not first or later(first[1], group['last-delivered-id']) then
        lost = math.max(0, gone - math.max(known, group['entries-read']))
      end
    end
  end
end
if gone ~= known then redis.call('HSET', KEYS[2], 'skipped', gone) end
if lost > 0 then redis.call('HSET', KEYS[2], 'trimmed', (redis.call('HGET', KEYS[2], 'trimmed') or 0) + lost) end
return lost
"""
)

# Counts entries behind an id, a page at a time, without sending them.
# KEYS  stream
# ARGV  id (exclusive), the last id to count or '+', page size
# gives {how many, last id of the page}
COUNT: Final = Script(
    """
local page = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], ARGV[2], 'COUNT', ARGV[3])
return {#page, #page > 0 and page[#page][1] or ARGV[1]}
"""
)
