"""The turn: what an acquirer does in one step besides reading new entries."""

from __future__ import annotations

from typing import Final

from streamworker.redisbroker.link import Script
from streamworker.redisbroker.scripts.clock import CLOCK

_SCANNED: Final = 1000  # entries; a hundred take the server about 0.1 ms, for each worker twice a second

# What an acquirer does besides reading new entries, in one step.
# KEYS  stream, retry, delayed, consumers
# ARGV  1 group, 2 me, 3 room for retries, 4 room for retries and claims together (claims get no more than
#       retries may), 5 bytes to move at most,
#       6 the delivery number from which an entry of a dead consumer is a suspect,
#       then for each dead consumer: name, value of its heartbeat that the verdict rests on
# gives {the server's time in ms, paused, retries waiting, more to do,
#        retries {{id, origin, carried count + 1, packed fields}…},
#        claims {{1 or 2, id, count}…}, trimmed while pending (a number),
#        the first suspect {1 or 2, id, victim, value} or {}}; a paused group gets nothing
# A claimed entry's count is what Redis now keeps. Suspects stay where they are.
# Of a dead consumer's entries one call looks at SCANNED at most: the first page, for a suspect, and then from where
# the last call of anybody stopped (`NAME~1`, `NAME~2` in the hash), so that what lies behind suspects is found too.
# Where it passed something for which there was no room, the next one stops by again.
# A dead consumer that has nothing left is deleted, with its heartbeat and marker.
TURN: Final = Script(
    CLOCK
    + """
redis.call('HDEL', KEYS[4], '')
local group, me = ARGV[1], ARGV[2]
local room, limit, from = tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
local wall, now = clock(KEYS[4])
redis.call('HSET', KEYS[4], 'clock', string.format('%.0f', now), 'skew', string.format('%.0f', now - wall))
local more, bytes = 0, 0
if redis.call('HEXISTS', KEYS[4], 'paused') == 1 then
  return {wall, 1, redis.call('ZCARD', KEYS[3]), 0, {}, {}, 0, {}}
end

local moved = 0
while moved < room and bytes < limit do
  local member = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 1)[1]
  if not member then break end
  local origin, count, packed = string.match(member, '^(%S+) (%-?%d+) (.*)$')
  -- not ours: becomes a dead letter, with what it was
  if not origin then origin, count, packed = '0-0', '0', cmsgpack.pack({'member', member}) end
  redis.call('XADD', KEYS[2], '*', 'sw-id', origin, 'sw-deliveries', count, 'sw-fields', packed)
  redis.call('ZREM', KEYS[3], member)
  moved = moved + 1
  bytes = bytes + #member
end

local retries = {}
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
      local id, fields = reply[1][2][1][1], {}
      for i = 1, #reply[1][2][1][2], 2 do fields[reply[1][2][1][2][i]] = reply[1][2][1][2][i + 1] end
      local count = (tonumber(fields['sw-deliveries']) or 0) + 1
      redis.call('XCLAIM', KEYS[2], group, me, 0, id, 'RETRYCOUNT', count, 'JUSTID')
      retries[#retries + 1] = {id, fields['sw-id'] or id, count, fields['sw-fields'] or ''}
      bytes = bytes + #(fields['sw-fields'] or '')
    end
  end
  if #retries >= room or bytes >= limit then more = 1 end
end

room = math.min(room, tonumber(ARGV[4]) - #retries)
local claims, trimmed, suspect = {}, 0, {}
local function pending(key, start, count, victim)
  local found = redis.pcall('XPENDING', key, group, start, '+', count, victim)
  return found.err and {} or found
end
local function claim(which, ids, count)
  if #ids == 0 then return end
  local words = {'XCLAIM', KEYS[which], group, me, 0}
  for _, id in ipairs(ids) do words[#words + 1] = id end
  for _, word in ipairs({'RETRYCOUNT', count, 'JUSTID'}) do words[#words + 1] = word end
  local found = redis.call(unpack(words))
  for _, id in ipairs(found) do claims[#claims + 1] = {which, id, count} end
  trimmed = trimmed + #ids - #found
  room = room + #ids - #found
end
for at = 7, #ARGV, 2 do
  local victim, value = ARGV[at], ARGV[at + 1]
  local free, before = victim == 'released', #claims
  if free or (redis.call('HGET', KEYS[4], victim) or '') == value then
    for which = 1, 2 do
      local start, place, scanned, passed = '-', victim .. '~' .. which, 0, false
      local resume = not free and redis.call('HGET', KEYS[4], place)
      local resumed = resume
      while (free or scanned < SCANNED) and (room > 0 or (not free and #suspect == 0)) do
        local page = pending(KEYS[which], start, 100, victim)
        if #page == 0 then
          if resumed then redis.call('HDEL', KEYS[4], place) end
          scanned = 0
          break
        end
        local ids, of, gone, was = {}, 0, trimmed, {more, passed}
        for _, p in ipairs(page) do
          local id, count = p[1], p[4] + 1
          if not free and count >= from then
            if #suspect == 0 then suspect = {which, id, victim, value} end
          elseif room > 0 then
            if count ~= of then
              claim(which, ids, of)
              ids, of = {}, count
            end
            ids[#ids + 1] = id
            room = room - 1
          else
            more, passed = 1, true
          end
        end
        claim(which, ids, of)
        if passed and trimmed > gone then  -- there is room again: once more, without what is gone
          more, passed = was[1], was[2]
        else
          scanned = scanned + #page
          start = '(' .. page[#page][1]
          if resume then start, resume = resume, nil end
        end
      end
      if not free and scanned >= SCANNED and not passed then redis.call('HSET', KEYS[4], place, start) end
    end
    local emptied = #claims > before or not free
    if emptied and #pending(KEYS[1], '-', 1, victim) == 0 and #pending(KEYS[2], '-', 1, victim) == 0 then
      -- 6.2 refuses DELCONSUMER while out of memory: another turn will do
      redis.pcall('XGROUP', 'DELCONSUMER', KEYS[1], group, victim)
      redis.pcall('XGROUP', 'DELCONSUMER', KEYS[2], group, victim)
      redis.call('HDEL', KEYS[4], victim, victim .. '!', victim .. '~1', victim .. '~2')
    end
  end
end
return {wall, 0, redis.call('ZCARD', KEYS[3]), more,
        retries, claims, trimmed, suspect}
""".replace("SCANNED", str(_SCANNED))
)
