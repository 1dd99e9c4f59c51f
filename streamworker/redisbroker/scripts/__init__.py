"""The Lua scripts: everything that must happen in one step, or not at all.

What they have in common:

* A failure is fenced: a script acts on an entry only if it is pending for this consumer *and* has the
  delivery count that the consumer knows. The owner alone cannot tell two runs of one worker apart.
* Copy first, remove last, so that a refused write (out of memory, wrong type) leaves everything as it was.
* Where a script must work while the server is out of memory its first write is ``HDEL hash ''``: a server
  lets the other writes of a script pass when the first one was allowed.
* Time is the server's (``TIME``), in milliseconds. Due times are told by the group's own clock, which never
  goes back: see ``clock.py``.
"""

from streamworker.redisbroker.scripts.counting import COUNT, SKIPPED
from streamworker.redisbroker.scripts.finding import COPIES, FIND, PAGE
from streamworker.redisbroker.scripts.fixing import DELETE_IDLE, PERMITTED, SET_RIGHT
from streamworker.redisbroker.scripts.membership import BEAT, CLAIM_ALONE, LEAVE, LEFT
from streamworker.redisbroker.scripts.observing import BESIDE, OBSERVE
from streamworker.redisbroker.scripts.settling import ACK_RETRIED, DEAD_LETTER, DROP, RELEASE, RETRY
from streamworker.redisbroker.scripts.steering import AMEND, HAND_OVER, PAUSE, REDRIVE, REPLAY, SEEK
from streamworker.redisbroker.scripts.strangers import ABANDONED, CLAIM_ABANDONED
from streamworker.redisbroker.scripts.trimming import EXPIRE, FORCE, TRIM
from streamworker.redisbroker.scripts.turning import TURN

__all__ = [
    "ABANDONED",
    "ACK_RETRIED",
    "AMEND",
    "BEAT",
    "BESIDE",
    "CLAIM_ABANDONED",
    "CLAIM_ALONE",
    "COPIES",
    "COUNT",
    "DEAD_LETTER",
    "DELETE_IDLE",
    "DROP",
    "EXPIRE",
    "FIND",
    "FORCE",
    "HAND_OVER",
    "LEAVE",
    "LEFT",
    "OBSERVE",
    "PAGE",
    "PAUSE",
    "PERMITTED",
    "REDRIVE",
    "RELEASE",
    "REPLAY",
    "RETRY",
    "SEEK",
    "SET_RIGHT",
    "SKIPPED",
    "TRIM",
    "TURN",
]
