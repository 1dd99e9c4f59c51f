"""Fixing: what a doctor puts right, and what it asks beforehand."""

from __future__ import annotations

from typing import Final

from streamworker.redisbroker.link import Script
from streamworker.redisbroker.scripts.ids import LATER, NAMED

# Which calls the ACL allows, without making them, and without a line in the server's ACL log.
# ARGV  for each call the number of its words, and the words
# gives a list of 1 and 0; {} where the server cannot be asked (before 7.0)
PERMITTED: Final = Script(
    """
if not redis.acl_check_cmd then return {} end
local found, at = {}, 1
while at <= #ARGV do
  local many = tonumber(ARGV[at])
  local known, allowed = pcall(redis.acl_check_cmd, unpack(ARGV, at + 1, at + many))
  found[#found + 1] = known and allowed and 1 or 0
  at = at + many + 1
end
return found
"""
)

# Tells the server how many entries a group has read, so that the lag it tells is right. What lies between the group
# and the ends of the stream needs no counting; in between it is counted from a place that the caller has counted to.
# Nothing is done where something was removed meanwhile, or was trimmed unread and not told yet (SKIPPED tells it).
# KEYS  stream, consumers
# ARGV  group, an id, how many entries were ever added up to it; both empty for none
# gives {0, the lag}; {1} try again; {2} the server tells no lag, since unread entries were deleted; {3} no such group
SET_RIGHT: Final = Script(
    LATER
    + NAMED
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return {3} end
local function find()
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = named(flat)
    if group['name'] == ARGV[1] then return group end
  end
end
local info, group = named(redis.call('XINFO', 'STREAM', KEYS[1])), find()
if not group then return {3} end
local place, first, last = group['last-delivered-id'], info['first-entry'], info['last-entry']
local added, gone = info['entries-added'], info['entries-added'] - info['length']
local known = redis.call('HGET', KEYS[2], 'skipped')
local read
if (not first or later(first[1], place)) and known and tonumber(known) ~= gone then return {1} end
if not first or not later(last[1], place) then
  -- Behind the last id there is nothing yet, so the group may as well stand there: a server tells no lag across an
  -- entry that was deleted, nor from the very id of it on.
  if later(info['last-generated-id'], place) then place = info['last-generated-id'] end
  if place == info['max-deleted-entry-id'] and place ~= '0-0' then return {2} end
  read = added
elseif later(first[1], place) then
  read = gone
elseif ARGV[2] ~= '' then
  if later(first[1], ARGV[2]) or later(ARGV[2], place) then return {1} end
  local deleted = info['max-deleted-entry-id']
  if later(deleted, ARGV[2]) then return {later(deleted, place) and 2 or 1} end
  local more = redis.call('XRANGE', KEYS[1], '(' .. ARGV[2], place, 'COUNT', 1000)
  if #more == 1000 then return {1} end
  read = ARGV[3] + #more
else
  return {1}
end
redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], place, 'ENTRIESREAD', string.format('%.0f', read))
local lag = find()['lag']
if lag ~= added - read then
  redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], place, 'ENTRIESREAD', group['entries-read'] or -1)
  return {2}
end
return {0, lag}
"""
)

# Deletes consumers that nobody will miss: they are still as they were seen, and have nothing pending.
# KEYS  stream, retry, consumers
# ARGV  group, ms for which each must have been idle, then for each its name and its heartbeat as it was seen, or ''
# gives how many were deleted
DELETE_IDLE: Final = Script(
    NAMED
    + """
local members, deleted = {}, 0
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local one = named(flat)
  members[one['name']] = one
end
for at = 3, #ARGV, 2 do
  local name, one = ARGV[at], members[ARGV[at]]
  if one and one['pending'] == 0 and one['idle'] >= tonumber(ARGV[2])
      and (redis.call('HGET', KEYS[3], name) or '') == ARGV[at + 1] then
    local retried = redis.pcall('XPENDING', KEYS[2], ARGV[1], '-', '+', 1, name)
    if retried.err or #retried == 0 then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name)
      redis.pcall('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[1], name)
      redis.call('HDEL', KEYS[3], name, name .. '!', name .. '~1', name .. '~2')
      deleted = deleted + 1
    end
  end
end
return deleted
"""
)
