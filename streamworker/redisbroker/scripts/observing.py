"""Observing: what monitoring asks. These scripts only read, so whoever may read may run them, on a replica too."""

from __future__ import annotations

from typing import Final

from streamworker.redisbroker.link import Script
from streamworker.redisbroker.scripts.ids import NAMED

MOST_CONSUMERS: Final = 1000

# All facts of one moment: numbers that were asked for one after the other contradict each other while others write.
# XINFO builds the first and the last entry, which may be large; they are not sent.
# KEYS  stream
# ARGV  how many entries to weigh at each end, how many consumers of a group to tell at most
# gives {the server's time in ms, length, added or false, last generated id, first id or false, last id or false,
#        bytes of memory or false, {old entries weighed, their bytes, new ones, their bytes}, groups}
#       each group {name, pending, last delivered id, read or false, lag or false, next id or false,
#                   {id, consumer, idle ms, deliveries} of the first pending one or {},
#                   how many consumers, consumers {{name, pending, idle ms or false, inactive ms or false}…}},
#       where they are too many only those that have something pending, and not since when
#       {the server's time in ms} if there is no such stream
OBSERVE: Final = Script(
    NAMED
    + """
local function weigh(entries)
  local bytes = 0
  for _, entry in ipairs(entries) do
    for _, word in ipairs(entry[2]) do bytes = bytes + #word end
  end
  return #entries, bytes
end
local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('EXISTS', key) == 0 then return {now} end
local info = named(redis.call('XINFO', 'STREAM', key))
local memory = redis.pcall('MEMORY', 'USAGE', key)
if type(memory) ~= 'number' then memory = false end
local many = tonumber(ARGV[1])
if memory and info['length'] > 0 then  -- large ones are not worth holding up the server
  many = math.max(1, math.min(many, math.floor(1048576 * info['length'] / memory)))
end
local old, old_bytes = weigh(redis.call('XRANGE', key, '-', '+', 'COUNT', many))
local new, new_bytes = weigh(redis.call('XREVRANGE', key, '+', '-', 'COUNT', many))
local groups = {}
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
  local group = named(flat)
  -- nothing comes behind the greatest id: the server would call it no id
  local coming = redis.pcall('XRANGE', key, '(' .. group['last-delivered-id'], '+', 'COUNT', 1)[1]
  local consumers = {}
  if group['consumers'] <= tonumber(ARGV[2]) then
    for _, one in ipairs(redis.call('XINFO', 'CONSUMERS', key, group['name'])) do
      one = named(one)
      consumers[#consumers + 1] = {one['name'], one['pending'], one['idle'], one['inactive'] or false}
    end
  else
    for _, one in ipairs(redis.call('XPENDING', key, group['name'])[4] or {}) do
      consumers[#consumers + 1] = {one[1], tonumber(one[2]), false, false}
    end
  end
  groups[#groups + 1] = {
    group['name'], group['pending'], group['last-delivered-id'], group['entries-read'] or false,
    group['lag'] or false, coming and coming[1] or false,
    redis.call('XPENDING', key, group['name'], '-', '+', 1)[1] or {}, group['consumers'], consumers,
  }
end
local first, last = info['first-entry'], info['last-entry']
return {
  now, info['length'], info['entries-added'] or false, info['last-generated-id'],
  first and first[1] or false, last and last[1] or false, memory, {old, old_bytes, new, new_bytes}, groups,
}
"""
)

# What our own keys say about one group. A key of another type counts as nothing.
# KEYS  retry, delayed, dead, consumers
# ARGV  group
# gives {entries of the retry stream, of them pending, {id, consumer, idle ms, deliveries} of the first or {},
#        retries that wait, ms until the first or false,
#        dead letters, id of the first or false, id of the last or false, the consumers' hash as a flat list,
#        whether any of the keys is there (1 or 0)}
BESIDE: Final = Script(
    """
local function ask(otherwise, ...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then return otherwise end
  return reply
end
local there = ask(0, 'EXISTS', unpack(KEYS))
if there == 0 then return {0, 0, {}, 0, false, 0, false, false, {}, 0} end
local hash = ask({}, 'HGETALL', KEYS[4])
local skew = 0
for at = 1, #hash, 2 do
  if hash[at] == 'skew' then skew = tonumber(hash[at + 1]) or 0 end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + skew
local due = ask({}, 'ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
local first = ask({}, 'XRANGE', KEYS[3], '-', '+', 'COUNT', 1)[1]
local last = ask({}, 'XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
return {
  ask(0, 'XLEN', KEYS[1]), ask({0}, 'XPENDING', KEYS[1], ARGV[1])[1],
  ask({}, 'XPENDING', KEYS[1], ARGV[1], '-', '+', 1)[1] or {},
  ask(0, 'ZCARD', KEYS[2]), due and math.max(0, math.floor(due - now)) or false,
  ask(0, 'XLEN', KEYS[3]), first and first[1] or false, last and last[1] or false, hash, 1,
}
"""
)
