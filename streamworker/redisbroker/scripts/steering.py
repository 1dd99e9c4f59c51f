"""Steering: what operators do to a group and to its dead letters. Each call is one step, done or not done."""

from __future__ import annotations

from typing import Final

from streamworker.redisbroker.link import Script
from streamworker.redisbroker.scripts.ids import LATER

# A dead letter becomes a retry that is due: of the same group alone, with a new count.
# KEYS  dead, retry
# ARGV  the letter's id, the entry's id, packed fields
# gives 1, or 0 if there is no such letter (any more)
REDRIVE: Final = Script(
    """
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', 'sw-id', ARGV[2], 'sw-deliveries', '0', 'sw-fields', ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
"""
)

# An entry cannot be changed: the letter is written again, with all that it says beside its fields, and gets a new id.
# KEYS  dead
# ARGV  the letter's id, packed fields
# gives the new id, or false if there is no such letter (any more)
AMEND: Final = Script(
    """
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return false end
local fields = found[2]
for at = 1, #fields, 2 do
  if fields[at] == 'sw-fields' then fields[at + 1] = ARGV[2] end
end
local id = redis.call('XADD', KEYS[1], '*', unpack(fields))
redis.call('XDEL', KEYS[1], ARGV[1])
return id
"""
)

# Pausing must work while the server is out of memory: there it is needed most.
# KEYS  stream, consumers
# ARGV  group, who did it and when; empty to resume
# gives what stood there before, '' for nothing; false if there is no such group, and nothing was done
PAUSE: Final = Script(
    """
local there = false
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    for at = 1, #flat, 2 do
      if flat[at] == 'name' and flat[at + 1] == ARGV[1] then there = true end
    end
  end
end
local before = redis.call('HGET', KEYS[2], 'paused') or ''
redis.call('HDEL', KEYS[2], '')
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[2], 'paused')
  return before
end
if not there then return false end
if before == '' then redis.call('HSET', KEYS[2], 'paused', ARGV[2]) end
return before
"""
)

# Copies the next entries of a range into the group's retry stream, and keeps the place in the consumers' hash: killed
# in between and asked again, the same range goes on where it stopped. What is pending is left out: it will be handled.
# KEYS  stream, retry, consumers
# ARGV  group, the name of the place, first id, last id, how many to look at, how many to copy, bytes to copy at most,
#       the type ('=' and a name; '' for any), 'begin' or 'on' to copy, '' only to count from the first id on.
#       'on' was called before: where no place is kept, another one has come to the end
# gives {how many were looked at, how many copied, how many are pending, where to go on or false at the end}
REPLAY: Final = Script(
    LATER
    + """
local function bin(text)
  local n = #text
  if n < 256 then return '\\196' .. string.char(n) .. text end
  if n < 65536 then return '\\197' .. struct.pack('>I2', n) .. text end
  return '\\198' .. struct.pack('>I4', n) .. text
end
local function packed(fields)
  local parts = {'\\221' .. struct.pack('>I4', #fields)}
  for _, value in ipairs(fields) do parts[#parts + 1] = bin(value) end
  return table.concat(parts)
end
local group, real = ARGV[1], ARGV[9] ~= ''
local kept = real and redis.call('HGET', KEYS[3], ARGV[2])
if ARGV[9] == 'on' and not kept then return {0, 0, 0, false} end
local place = kept or ARGV[3]
if kept and later(string.sub(kept, 2), ARGV[4]) then return {0, 0, 0, false} end  -- it stays for who goes further
local looked, copied, pending, bytes = 0, 0, 0, 0
local function over()
  return looked >= tonumber(ARGV[5]) or copied >= tonumber(ARGV[6]) or bytes >= tonumber(ARGV[7])
end
while not over() do
  local page = redis.call('XRANGE', KEYS[1], place, ARGV[4], 'COUNT', 10)
  for _, entry in ipairs(page) do
    if over() then break end
    local id, fields, type = entry[1], entry[2], false
    for at = 1, #fields, 2 do
      if fields[at] == 'type' and not type then type = fields[at + 1] end
    end
    if ARGV[8] == '' or (type and '=' .. type == ARGV[8]) then
      if #redis.call('XPENDING', KEYS[1], group, id, id, 1) > 0 then
        pending = pending + 1
      else
        if real then
          redis.call('XADD', KEYS[2], '*', 'sw-id', id, 'sw-deliveries', '0', 'sw-fields', packed(fields))
        end
        copied = copied + 1
        for _, value in ipairs(fields) do bytes = bytes + #value end
      end
    end
    looked = looked + 1
    place = '(' .. id
  end
  if place == '(' .. ARGV[4] or (#page < 10 and not over()) then
    if real then redis.call('HDEL', KEYS[3], ARGV[2]) end
    return {looked, copied, pending, false}
  end
end
if real then redis.call('HSET', KEYS[3], ARGV[2], place) end
return {looked, copied, pending, place}
"""
)

# Where the group reads on. It is not moved back over what is pending: the next reader would take that from whoever
# has it, and its count would begin again.
# KEYS  stream
# ARGV  group, the id behind which to read on, its position if it is known, '1' if it may go back
# gives {} without such a group, {1, id up to which it had read}, {0, first pending id behind it, its consumer},
#       or {2, id up to which it has read} where that is behind the place, but it may not go back
SEEK: Final = Script(
    LATER
    + """
local before = false
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local info = {}
    for at = 1, #flat, 2 do info[flat[at]] = flat[at + 1] end
    if info['name'] == ARGV[1] then before = info['last-delivered-id'] end
  end
end
if not before then return {} end
if later(before, ARGV[2]) then  -- now: since it was planned the group may have read on
  if ARGV[4] ~= '1' then return {2, before} end
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '(' .. ARGV[2], '+', 1)[1]
  if pending then return {0, pending[1], pending[2]} end
end
if ARGV[3] == '' then
  redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2])
else
  redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2], 'ENTRIESREAD', ARGV[3])
end
return {1, before}
"""
)

# Hands what a consumer holds to `released`, from where every worker takes it within a second. Counts stay: who let
# it lie may have died of it.
# KEYS  stream, retry
# ARGV  group, consumer, how many at most
# gives how many were handed over
HAND_OVER: Final = Script(
    """
local moved = 0
for _, key in ipairs(KEYS) do
  while moved < tonumber(ARGV[3]) do
    local page = redis.pcall('XPENDING', key, ARGV[1], '-', '+', 100, ARGV[2])
    if page.err or #page == 0 then break end
    for _, p in ipairs(page) do
      local claimed = redis.call('XCLAIM', key, ARGV[1], 'released', 0, p[1], 'RETRYCOUNT', p[4], 'JUSTID')
      -- trimmed away: 6.2 leaves it pending, later ones drop it
      if #claimed == 0 then redis.call('XACK', key, ARGV[1], p[1]) end
    end
    moved = moved + #page
  end
end
return moved
"""
)
