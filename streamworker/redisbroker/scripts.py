"""The Lua scripts: everything that must happen in one step, or not at all.

What they have in common:

* A failure is fenced: a script acts on an entry only if it is pending for this consumer *and* has the
  delivery count that the consumer knows. The owner alone cannot tell two runs of one worker apart.
* Copy first, remove last, so that a refused write (out of memory, wrong type) leaves everything as it was.
* Where a script must work while the server is out of memory its first write is ``HDEL hash ''``: a server
  lets the other writes of a script pass when the first one was allowed.
* Time is the server's (``TIME``), in milliseconds.
"""

from __future__ import annotations

from typing import Final

from streamworker.redisbroker.link import Script

# The consumer that owns released entries. It is no process: everybody treats it as dead at once.
RELEASED: Final = "released"

_FENCE: Final = """
local function mine(key, group, me, id, count)
  local p = redis.call('XPENDING', key, group, id, id, 1)[1]
  return p and p[2] == me and p[4] == tonumber(count)
end
"""

# What was done in the retry stream is removed from it, or it would grow for ever. No MULTI: Redis 6.2 refuses
# every command in one while it is out of memory.
# KEYS  retry
# ARGV  group, id…
# gives how many were pending
ACK_RETRIED: Final = Script(
    """
local acked = 0
for at = 2, #ARGV do
  acked = acked + redis.call('XACK', KEYS[1], ARGV[1], ARGV[at])
  redis.call('XDEL', KEYS[1], ARGV[at])
end
return acked
"""
)

# KEYS  source, delayed
# ARGV  group, me, id, count, is the source the retry stream ('1'), delay in ms, member
# gives 1, or 0 if the entry is not this consumer's at this count any more (then nothing was done)
RETRY: Final = Script(
    _FENCE
    + """
if not mine(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]) then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[2], now + ARGV[6], ARGV[7])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
if ARGV[5] == '1' then redis.call('XDEL', KEYS[1], ARGV[3]) end
return 1
"""
)

# KEYS  source, dead
# ARGV  group, me, id, count, is the source the retry stream ('1'), then the dead letter's fields
# gives 1, or 0 as above
DEAD_LETTER: Final = Script(
    _FENCE
    + """
if not mine(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]) then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 6))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
if ARGV[5] == '1' then redis.call('XDEL', KEYS[1], ARGV[3]) end
return 1
"""
)

# KEYS  source
# ARGV  group, me, id, count, is the source the retry stream ('1')
# gives 1, or 0 as above
DROP: Final = Script(
    _FENCE
    + """
if not mine(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]) then return 0 end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
if ARGV[5] == '1' then redis.call('XDEL', KEYS[1], ARGV[3]) end
return 1
"""
)

# Hands entries to the consumer `released`, with the count of this delivery taken back.
# KEYS  stream, retry
# ARGV  group, me, then for each entry: 1 (stream) or 2 (retry), id, count
# gives how many were handed over; the rest was trimmed or is not ours any more
RELEASE: Final = Script(
    _FENCE
    + f"""
local released = 0
for at = 3, #ARGV, 3 do
  local key, id, count = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  if mine(key, ARGV[1], ARGV[2], id, count) then
    released = released + #redis.call('XCLAIM', key, ARGV[1], '{RELEASED}', 0, id,
                                      'RETRYCOUNT', count - 1, 'JUSTID')
  end
end
return released
"""
)

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

# What an acquirer does besides reading new entries, in one step.
# KEYS  stream, retry, delayed, consumers
# ARGV  1 group, 2 me, 3 room for retries, 4 room for retries and claims together (claims get no more than
#       retries may), 5 bytes to move at most,
#       6 the delivery number from which an entry of a dead consumer is a suspect,
#       then for each dead consumer: name, value of its heartbeat that the verdict rests on
# gives {now in ms, paused, retries waiting, more to do,
#        retries {{id, origin, carried count + 1, packed fields}…},
#        claims {{1 or 2, id, count}…}, trimmed while pending (a number),
#        the first suspect {1 or 2, id, victim, value} or {}}; a paused group gets nothing
# A claimed entry's count is what Redis now keeps. Suspects stay where they are.
# A dead consumer that has nothing left is deleted, with its heartbeat and marker.
TURN: Final = Script(
    f"""
redis.call('HDEL', KEYS[4], '')
local group, me = ARGV[1], ARGV[2]
local room, limit, from = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local more, bytes = 0, 0
if redis.call('HEXISTS', KEYS[4], 'paused') == 1 then
  return {{now, 1, redis.call('ZCARD', KEYS[3]), 0, {{}}, {{}}, 0, {{}}}}
end

local moved = 0
while moved < room and bytes < limit do
  local member = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 1)[1]
  if not member then break end
  local origin, count, packed = string.match(member, '^(%S+) (%-?%d+) (.*)$')
  if not origin then origin, count, packed = '0-0', '0', '' end  -- not ours: becomes a dead letter
  redis.call('XADD', KEYS[2], '*', 'sw-id', origin, 'sw-deliveries', count, 'sw-fields', packed)
  redis.call('ZREM', KEYS[3], member)
  moved = moved + 1
  bytes = bytes + #member
end

local retries = {{}}
bytes = 0
if room > 0 and redis.call('EXISTS', KEYS[2]) == 1 then
  while #retries < room and bytes < limit do
    local reply = redis.pcall('XREADGROUP', 'GROUP', group, me, 'COUNT', 1, 'STREAMS', KEYS[2], '>')
    if reply and reply.err then
      if not string.find(reply.err, 'NOGROUP') then return redis.error_reply(reply.err) end
      redis.call('XGROUP', 'CREATE', KEYS[2], group, '0')
    elseif not reply then
      break
    else
      local id, fields = reply[1][2][1][1], {{}}
      for i = 1, #reply[1][2][1][2], 2 do fields[reply[1][2][1][2][i]] = reply[1][2][1][2][i + 1] end
      local count = (tonumber(fields['sw-deliveries']) or 0) + 1
      redis.call('XCLAIM', KEYS[2], group, me, 0, id, 'RETRYCOUNT', count, 'JUSTID')
      retries[#retries + 1] = {{id, fields['sw-id'] or id, count, fields['sw-fields'] or ''}}
      bytes = bytes + #(fields['sw-fields'] or '')
    end
  end
  if #retries >= room or bytes >= limit then more = 1 end
end

room = math.min(room, tonumber(ARGV[4]) - #retries)
local claims, trimmed, suspect, scanned = {{}}, 0, {{}}, 0
local function pending(key, start, count, victim)
  local found = redis.pcall('XPENDING', key, group, start, '+', count, victim)
  return found.err and {{}} or found
end
for at = 7, #ARGV, 2 do
  local victim, value = ARGV[at], ARGV[at + 1]
  local free, before = victim == '{RELEASED}', #claims
  if free or (redis.call('HGET', KEYS[4], victim) or '') == value then
    for which = 1, 2 do
      local start = '-'
      while scanned < 10000 and (room > 0 or (not free and #suspect == 0)) do
        local page = pending(KEYS[which], start, 100, victim)
        if #page == 0 then break end
        for _, p in ipairs(page) do
          local id, count = p[1], p[4] + 1
          if not free and count >= from then
            if #suspect == 0 then suspect = {{which, id, victim, value}} end
          elseif room > 0 then
            if #redis.call('XCLAIM', KEYS[which], group, me, 0, id, 'RETRYCOUNT', count, 'JUSTID') == 0 then
              trimmed = trimmed + 1
            else
              claims[#claims + 1] = {{which, id, count}}
              room = room - 1
            end
          else
            more = 1
          end
        end
        scanned = scanned + #page
        start = '(' .. page[#page][1]
      end
    end
    local emptied = #claims > before or not free
    if emptied and #pending(KEYS[1], '-', 1, victim) == 0 and #pending(KEYS[2], '-', 1, victim) == 0 then
      -- 6.2 refuses DELCONSUMER while out of memory: another turn will do
      redis.pcall('XGROUP', 'DELCONSUMER', KEYS[1], group, victim)
      redis.pcall('XGROUP', 'DELCONSUMER', KEYS[2], group, victim)
      redis.call('HDEL', KEYS[4], victim, victim .. '!')
    end
  end
end
return {{now, 0, redis.call('ZCARD', KEYS[3]), more,
        retries, claims, trimmed, suspect}}
"""
)

# Takes one suspect from a dead consumer and writes down that this consumer runs it alone.
# KEYS  source, consumers
# ARGV  group, me, id, victim, value of its heartbeat that the verdict rests on, highest count
# gives {count it had, 1 if the victim ran it alone when it died}, {} if it is gone or was taken by another
CLAIM_ALONE: Final = Script(
    """
redis.call('HDEL', KEYS[2], '')
local group, me, id, victim = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if (redis.call('HGET', KEYS[2], victim) or '') ~= ARGV[5] then return {} end
local p = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
if not p or p[2] ~= victim then return {} end
local name = KEYS[1] .. ' ' .. id
local guilty = redis.call('HGET', KEYS[2], victim .. '!') == name
local count = math.max(p[4], math.min(p[4] + 1, tonumber(ARGV[6])))
local claimed = redis.call('XCLAIM', KEYS[1], group, me, 0, id, 'RETRYCOUNT', count, 'JUSTID')
if #claimed == 0 then return {} end
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
redis.call('HDEL', KEYS[3], ARGV[2], ARGV[2] .. '!')
redis.pcall('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
redis.pcall('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[1], ARGV[2])
return 1
"""
)

# Whether anything is left for a group that will become readable within a horizon, besides what a read gives.
# KEYS  stream, retry, delayed
# ARGV  group, horizon in ms
# gives {pending for anyone, retries that can be read, retries due within the horizon, ms until the first}
LEFT: Final = Script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
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

# Counts entries behind an id, a page at a time, without sending them.
# KEYS  stream
# ARGV  id (exclusive), page size
# gives {how many, last id of the page}
COUNT_AFTER: Final = Script(
    """
local page = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
return {#page, #page > 0 and page[#page][1] or ARGV[1]}
"""
)
