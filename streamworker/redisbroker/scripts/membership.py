"""Membership: the signs of life of a group's consumers, suspects, and the end of a consumer."""

from __future__ import annotations

from typing import Final

from streamworker.redisbroker.link import Script
from streamworker.redisbroker.scripts.clock import CLOCK

# One sign of life and one look at the others, in one step: where beating is refused (read-only, paused,
# too few replicas) looking must not go on, or everybody seems dead.
# KEYS  consumers, stream, retry
# ARGV  group, me, value
# gives {the hash as a flat list, names of all consumers with pending entries}
# keeps `floor`: an id below which this group has nothing left to do
BEAT: Final = Script(
    """
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
local names = {}
for at = 2, 3 do
  local pending = redis.pcall('XPENDING', KEYS[at], ARGV[1])
  if not pending.err then
    local floor
    if pending[1] > 0 then
      for _, consumer in ipairs(pending[4]) do names[#names + 1] = consumer[1] end
      local ms, seq = string.match(pending[2], '^(%d+)-(%d+)$')
      -- numbers in Lua are exact up to 2^53; above that the floor stays too low, which repeats, and loses none
      if #ms > 15 then
        floor = nil
      elseif seq == '0' then
        floor = ms == '0' and '0-0' or string.format('%.0f-18446744073709551615', ms - 1)
      elseif #seq > 15 then
        floor = ms .. '-0'
      else
        floor = string.format('%s-%.0f', ms, seq - 1)
      end
    elseif at == 2 then
      for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
        local group = {}
        for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
        if group['name'] == ARGV[1] then floor = group['last-delivered-id'] end
      end
    end
    if at == 2 and floor then redis.call('HSET', KEYS[1], 'floor', floor) end
  end
end
return {redis.call('HGETALL', KEYS[1]), names}
"""
)

# Takes one suspect from a dead consumer and writes down that this consumer runs it alone.
# KEYS  source, consumers
# ARGV  group, me, id, victim, value of its heartbeat that the verdict rests on, highest count,
#       the count it must have (0: any), ms for which it must be idle
# gives {count it had, 1 if the victim ran it alone when it died, count it has now}, {} if it is gone or was
#       taken by another, {count it had} if it was trimmed away (7.0 and later; 6.2 claims what is not there)
CLAIM_ALONE: Final = Script(
    """
local group, me, id, victim = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if (redis.call('HGET', KEYS[2], victim) or '') ~= ARGV[5] then return {} end
local p = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
if not p or p[2] ~= victim or p[3] < tonumber(ARGV[8]) then return {} end
if ARGV[7] ~= '0' and p[4] ~= tonumber(ARGV[7]) then return {} end
local name = KEYS[1] .. ' ' .. id
local guilty = redis.call('HGET', KEYS[2], victim .. '!') == name
local count = math.max(p[4], math.min(p[4] + 1, tonumber(ARGV[6])))
local claimed = redis.call('XCLAIM', KEYS[1], group, me, 0, id, 'RETRYCOUNT', count, 'JUSTID')
if #claimed == 0 then return {p[4]} end
redis.call('HSET', KEYS[2], me .. '!', name)
return {p[4], guilty and 1 or 0, count}
"""
)

# The end of a consumer that has nothing pending; with pending entries it stays, and is taken for dead later.
# KEYS  stream, retry, consumers
# ARGV  group, me
# gives 1 if it was deleted
LEAVE: Final = Script(
    """
for at = 1, 2 do
  local pending = redis.pcall('XPENDING', KEYS[at], ARGV[1], '-', '+', 1, ARGV[2])
  if not pending.err and #pending > 0 then return 0 end
end
redis.call('HDEL', KEYS[3], ARGV[2], ARGV[2] .. '!', ARGV[2] .. '~1', ARGV[2] .. '~2')
redis.pcall('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
redis.pcall('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[1], ARGV[2])
return 1
"""
)

# Whether anything is left for a group that will become readable within a horizon, besides what a read gives.
# KEYS  stream, retry, delayed, consumers
# ARGV  group, horizon in ms
# gives {pending for anyone, retries that can be read, retries due within the horizon, ms until the first}
LEFT: Final = Script(
    CLOCK
    + """
local _, now = clock(KEYS[4])
local pending = 0
for at = 1, 2 do
  local summary = redis.pcall('XPENDING', KEYS[at], ARGV[1])
  if not summary.err then pending = pending + summary[1] end
end
-- what is in the retry stream is removed when it is settled
local readable = redis.call('XLEN', KEYS[2])
local waiting = redis.call('ZCOUNT', KEYS[3], '-inf', now + ARGV[2])
local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
return {pending, readable, waiting, first and math.max(0, first - now) or 0}
"""
)
