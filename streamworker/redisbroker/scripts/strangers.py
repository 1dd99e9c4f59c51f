"""Entries that consumers of other programs have let lie: finding them, and taking them over."""

from __future__ import annotations

from typing import Final

from streamworker.identity import RELEASED
from streamworker.redisbroker.link import Script

# KEYS  stream
# ARGV  group, suffix of our consumers' names, idle time in ms, how many entries of each consumer to look at
# gives {{id, owner, count}…}: entries of consumers that are none of ours, idle for longer than that
ABANDONED: Final = Script(
    """
local found = {}
local summary = redis.call('XPENDING', KEYS[1], ARGV[1])
if summary[1] == 0 then return found end
for _, consumer in ipairs(summary[4]) do
  local name = consumer[1]
  if name ~= 'RELEASED' and string.sub(name, -#ARGV[2]) ~= ARGV[2] then
    for _, p in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[4], name)) do
      if p[3] >= tonumber(ARGV[3]) then found[#found + 1] = {p[1], p[2], p[4]} end
    end
  end
end
return found
""".replace("RELEASED", RELEASED)
)

# KEYS  stream
# ARGV  group, me, then for each entry: id, owner, count
# gives {{id, new count}…} of those that are still that owner's at that count; the payload may be gone
CLAIM_ABANDONED: Final = Script(
    """
local claimed = {}
for at = 3, #ARGV, 3 do
  local id, owner, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if p and p[2] == owner and p[4] == count then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', count + 1, 'JUSTID')
    claimed[#claimed + 1] = {id, count + 1}
  end
end
return claimed
"""
)
