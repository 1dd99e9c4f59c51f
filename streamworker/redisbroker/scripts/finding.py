"""Finding: single entries, and the copies that retries and dead letters keep of them. These scripts only read."""

from __future__ import annotations

from typing import Final

from streamworker.redisbroker.link import Script

# KEYS  stream
# ARGV  the id behind which to begin, how many entries at most
# gives {whether there is such a stream (1 or 0), last generated id, entries}
PAGE: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, '0-0', {}} end
local info = redis.call('XINFO', 'STREAM', KEYS[1])
local generated
for at = 1, #info, 2 do
  if info[at] == 'last-generated-id' then generated = info[at + 1] end
end
return {1, generated, redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])}
"""
)

# The entry and what the groups have of it at the same moment.
# KEYS  stream
# ARGV  id
# gives {the server's time in ms, whether there is such a stream (1 or 0), its fields or false,
#        {{group, last delivered id, {id, consumer, idle ms, deliveries} or {}}…}}
FIND: Final = Script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('EXISTS', KEYS[1]) == 0 then return {now, 0, false, {}} end
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
local groups = {}
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for at = 1, #flat, 2 do group[flat[at]] = flat[at + 1] end
  groups[#groups + 1] = {
    group['name'], group['last-delivered-id'],
    redis.call('XPENDING', KEYS[1], group['name'], ARGV[1], ARGV[1], 1)[1] or {},
  }
end
return {now, 1, entry and entry[2] or false, groups}
"""
)

# Looks through a retry stream or a dead stream for copies of one entry. A few at a time, since the server stands still
# meanwhile and each may hold megabytes.
# KEYS  retry or dead
# ARGV  the entry's id, group, the id to begin at, how many to look at
# gives {how many it has looked at, where to go on or false, copies {{id, fields, {id, consumer, idle ms, deliveries}
#        of the pending one or {}}…}}; a key of another type has none
COPIES: Final = Script(
    """
local start, looked, bytes, found = ARGV[3], 0, 0, {}
while looked < tonumber(ARGV[4]) and bytes < 1048576 do
  local page = redis.pcall('XRANGE', KEYS[1], start, '+', 'COUNT', 10)
  if page.err then return {looked, false, found} end
  for _, entry in ipairs(page) do
    local fields, mine = entry[2], false
    for at = 1, #fields, 2 do
      if fields[at] == 'sw-id' and fields[at + 1] == ARGV[1] then mine = true end
      bytes = bytes + #fields[at + 1]
    end
    if mine then
      local pending = redis.pcall('XPENDING', KEYS[1], ARGV[2], entry[1], entry[1], 1)
      found[#found + 1] = {entry[1], fields, not pending.err and pending[1] or {}}
    end
  end
  looked = looked + #page
  if #page < 10 then return {looked, false, found} end
  start = '(' .. page[10][1]
end
return {looked, start, found}
"""
)
