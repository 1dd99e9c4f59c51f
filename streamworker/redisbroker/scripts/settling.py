"""Settling and releasing: scripts that end one delivery."""

from __future__ import annotations

from typing import Final

from streamworker.redisbroker.link import Script
from streamworker.redisbroker.scripts.clock import CLOCK

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

# KEYS  source, delayed, consumers
# ARGV  group, me, id, count, is the source the retry stream ('1'), delay in ms, member
# gives 1, or 0 if the entry is not this consumer's at this count any more (then nothing was done)
RETRY: Final = Script(
    _FENCE
    + CLOCK
    + """
if not mine(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]) then return 0 end
local _, now = clock(KEYS[3])
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
    + """
local released = 0
for at = 3, #ARGV, 3 do
  local key, id, count = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  if mine(key, ARGV[1], ARGV[2], id, count) then
    released = released + #redis.call('XCLAIM', key, ARGV[1], 'released', 0, id,
                                      'RETRYCOUNT', count - 1, 'JUSTID')
  end
end
return released
"""
)
