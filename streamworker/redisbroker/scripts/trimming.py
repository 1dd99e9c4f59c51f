"""Trimming: what makes a stream shorter without taking from a group what it has not finished."""

from __future__ import annotations

from typing import Final

from streamworker.redisbroker.link import Script
from streamworker.redisbroker.scripts.ids import BEHIND, LATER, NAMED

# groups_of(first)  every group of the stream, whoever made it, with `place`: the lowest id it has not finished. That
#                   is its first pending entry from `first` on (what was trimmed or deleted needs no protection), or
#                   the id behind the last one it was given. `pending` is the row of XPENDING, if it is that.
# lowest(groups)    the one with the lowest place; everything below it is finished by all
# bounds()          what limits ask: the server's time in ms, the id up to which all is too old or nil
# first_of()        the first entry's id or nil, and how many entries like it make a megabyte
_FLOOR: Final = (
    LATER
    + BEHIND
    + NAMED
    + """
local key = KEYS[1]
local max_length, max_age, max_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local function groups_of(first)
  local groups = {}
  for at, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local group = named(flat)
    group['place'] = behind(group['last-delivered-id'])
    local pending = redis.call('XPENDING', key, group['name'], first, '+', 1)[1]
    if pending and later(group['place'], pending[1]) then
      group['place'], group['pending'] = pending[1], pending
    else
      group['pending'] = nil
    end
    groups[at] = group
  end
  return groups
end
local function lowest(groups)
  local found = groups[1]
  for _, group in ipairs(groups) do
    if later(found['place'], group['place']) then found = group end
  end
  return found
end
local function bounds()
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  return now, max_age and string.format('%.0f-0', math.max(0, now - max_age))
end
local function first_of()
  local entry = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  if not entry then return nil, 1 end
  local size = 1
  for _, word in ipairs(entry[2]) do size = size + #word end
  return entry[1], math.max(1, math.floor(1048576 / size))
end
"""
)

# Removes what the limits ask, as far as every group is through with it: the floor and the removal are one step.
# Trimming is allowed out of memory. By whole nodes (about 100 entries) first, which reads nothing, then the rest of a
# node at an id that is looked up. LIMIT 0 would mean no limit at all, so it is never sent.
# KEYS  stream
# ARGV  1 entries to keep, 2 ms to keep them, 3 bytes to keep below; each empty for no limit,
#       4 how many entries to remove at most, since the server does nothing else meanwhile; 0 only looks,
#       5 '1' if a stream without any group may be trimmed too, 6 '1' to tell the memory anyway
# gives {the server's time in ms, removed, length now, bytes now or false,
#        0 the limits are kept, 1 more can go (call again), 2 a group holds back what should go,
#        names of all groups, {group, first entry it has not finished[, consumer, idle ms, deliveries]} of the group
#        whose such entry is the lowest, or {} if all is finished}; {the time} if there is no such stream
TRIM: Final = Script(
    _FLOOR
    + """
local now, old = bounds()
if redis.call('EXISTS', key) == 0 then return {now} end
local most, removed, length = tonumber(ARGV[4]), 0, redis.call('XLEN', key)
local first, many_at_once = first_of()
local groups = groups_of(first or '0-0')
local holder = #groups > 0 and lowest(groups)
local floor = holder and holder['place'] or '0-0'
if #groups == 0 and ARGV[5] == '1' then floor = '18446744073709551615-18446744073709551615' end

local function cut(...)
  local gone = redis.call('XTRIM', key, 'MINID', ...)
  removed, length = removed + gone, length - gone
  if gone > 0 then first = first_of() end
  return gone
end
local function may_go()
  return first and removed < most and later(floor, first)
end
local function drop(many)
  many = math.min(many, most - removed)
  if many < 1 or not may_go() then return end
  many = math.min(many - cut('~', floor, 'LIMIT', many), many_at_once, 127)
  if many < 1 or not may_go() then return end
  local page = redis.call('XRANGE', key, '-', '+', 'COUNT', many + 1)
  local upto = page[many + 1] and page[many + 1][1] or floor
  cut(later(upto, floor) and floor or upto)
end

if old and may_go() then
  local upto = later(old, floor) and floor or old
  -- where LIMIT may have been the end of it, what is left may be much
  if later(upto, first) and cut('~', upto, 'LIMIT', most) <= most / 2 then cut(upto) end
end
if max_length then drop(length - max_length) end
local bytes = (max_bytes or ARGV[6] == '1') and redis.call('MEMORY', 'USAGE', key)
if max_bytes and bytes > max_bytes and length > 0 then
  -- entries are not of one size, so by halves
  drop(math.ceil((bytes - max_bytes) * length / bytes / 2))
  bytes = redis.call('MEMORY', 'USAGE', key)
end

local state, names, held = 0, {}, {}
if first and ((max_length and length > max_length) or (old and later(old, first)) or (max_bytes and bytes > max_bytes))
then
  -- what held the floor may be gone from the stream: the next call finds the one behind it
  state = (later(floor, first) or (removed > 0 and holder and holder['pending'] and later(first, floor))) and 1 or 2
end
for at, group in ipairs(groups) do names[at] = group['name'] end
if holder and holder['pending'] then
  local p = holder['pending']
  held = {holder['name'], p[1], p[2], p[3], p[4]}
elseif holder then
  local unread = redis.call('XRANGE', key, floor, '+', 'COUNT', 1)[1]
  if unread then held = {holder['name'], unread[1]} end
end
return {now, removed, length, bytes, state, names, held}
"""
)

# Removes what the limits ask though groups have not finished it, a page at a time, and counts what each group loses.
# What a group loses unread is added to its `trimmed` and left out of what SKIPPED finds, so that it is told once.
# KEYS  stream, then the consumers' hashes of groups
# ARGV  1-3 as for TRIM, 4 '1' removes nothing and counts, 5 where to begin ('-', or an id behind which),
#       6 how many were counted before that, then the names of the groups of the hashes
# gives {entries of this page that go, of them those that all groups have finished, last id of them,
#        {{group, unread, pending}…} of those that lose something}; {0, 0, '-', {}} when nothing is left to do
FORCE: Final = Script(
    _FLOOR
    + """
local now, old = bounds()
local length, counted, dry = redis.call('XLEN', key), tonumber(ARGV[6]), ARGV[4] == '1'
local first, most = first_of()
if not first then return {0, 0, '-', {}} end
local wanted = max_length and length - max_length or 0
if max_bytes then
  local bytes = redis.call('MEMORY', 'USAGE', key)
  wanted = math.max(wanted, math.ceil((bytes - max_bytes) * length / bytes / (dry and 1 or 2)))
end
wanted = wanted - counted
most = math.min(most, 1000)
if not old then most = math.min(most, wanted) end
if most < 1 then return {0, 0, '-', {}} end
local page = redis.call('XRANGE', key, ARGV[5], '+', 'COUNT', most + 1)
local ids, goes = {}, {}
for at, entry in ipairs(page) do
  if at > most or (at > wanted and not (old and later(old, entry[1]))) then break end
  ids[at], goes[entry[1]] = entry[1], true
end
if #ids == 0 then return {0, 0, '-', {}} end

local function upto(id)  -- how many of the ids are not later
  local low, high = 0, #ids
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if later(ids[middle], id) then high = middle - 1 else low = middle end
  end
  return low
end
local groups, losses = groups_of(first), {}
local finished = #ids
if #groups > 0 then
  local floor = lowest(groups)['place']
  finished = upto(floor)
  if ids[finished] == floor then finished = finished - 1 end
end
for _, group in ipairs(groups) do
  local pending, unread = 0, #ids - upto(group['last-delivered-id'])
  for _, p in ipairs(redis.call('XPENDING', key, group['name'], ids[1], ids[#ids], 10000)) do
    if goes[p[1]] then
      pending = pending + 1
      if later(p[1], group['last-delivered-id']) then unread = unread - 1 end
    end
  end
  if pending + unread > 0 then losses[#losses + 1] = {group['name'], unread, pending} end
  group['unread'] = unread
end
if dry then return {#ids, finished, ids[#ids], losses} end

local next = page[#ids + 1]
local removed = redis.call('XTRIM', key, 'MINID', next and next[1] or behind(ids[#ids]))
local positions = {}
for at = 2, #KEYS do positions[ARGV[at + 5]] = KEYS[at] end
local added = #KEYS > 1 and named(redis.call('XINFO', 'STREAM', key))['entries-added']
for _, group in ipairs(added and groups or {}) do
  local hash = positions[group['name']]
  local known = tonumber(hash and redis.call('HGET', hash, 'skipped') or -1)
  if known >= 0 then
    known = math.min(added - length, math.max(known, group['entries-read'] or 0))
    redis.call('HSET', hash, 'skipped', known + removed)
    if group['unread'] > 0 then
      redis.call('HSET', hash, 'trimmed', (redis.call('HGET', hash, 'trimmed') or 0) + group['unread'])
    end
  end
end
return {removed, finished, ids[#ids], losses}
"""
)

# Shortens a stream of dead letters, which no group reads.
# KEYS  dead
# ARGV  1 letters to keep, 2 ms to keep them; each empty for no limit, 3 how many to remove by each in one call
# gives {removed, 1 if there is more to do}
EXPIRE: Final = Script(
    """
local removed, more, most = 0, 0, tonumber(ARGV[3])
local function cut(how, limit)
  local gone = redis.call('XTRIM', KEYS[1], how, '~', limit, 'LIMIT', most)
  if gone <= most / 2 then gone = gone + redis.call('XTRIM', KEYS[1], how, limit) else more = 1 end
  removed = removed + gone
end
if ARGV[2] ~= '' then
  local time = redis.call('TIME')
  local old = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[2]
  if old > 0 then cut('MINID', string.format('%.0f-0', old)) end
end
if ARGV[1] ~= '' then cut('MAXLEN', ARGV[1]) end
return {removed, more}
"""
)
