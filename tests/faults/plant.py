"""Eight bugs that a worker of this kind could have, as replacements in its source."""

from __future__ import annotations

from dataclasses import dataclass

NUMBERS = "tests/faults/test_numbers.py"
PLANTED = "tests/faults/test_dying_in_between.py"
REPLIES = "tests/faults/connection/test_lost_replies.py"
SCRIPTS = "tests/faults/connection/test_lost_scripts.py"
HALF_OPEN = "tests/faults/connection/test_half_open.py"


@dataclass(frozen=True, slots=True)
class Bug:
    """One bug: the texts that are replaced, each in one place of one file, and a test that notices.

    Attributes:
        name: what the worker does wrong.
        changes: file (below ``streamworker/``), text, and the text in its place.
        caught_by: the fastest known test that turns red, for the quick form.
    """

    name: str
    changes: tuple[tuple[str, str, str], ...]
    caught_by: str


BUGS = (
    Bug(
        "ack before handling",
        (
            (
                "slots.py",
                'self._acks_first = self._handler.ack == "before" and state.settling is not None',
                "self._acks_first = state.settling is not None",
            ),
        ),
        f"{PLANTED}::test_who_dies_while_a_handler_runs_has_acked_nothing[valkey-9.1]",
    ),
    Bug(
        "no audit",
        (
            (
                "audits.py",
                "        if not strays or not room:\n            return []\n",
                "        return []\n",
            ),
        ),
        f"{REPLIES}::test_entries_of_a_read_whose_reply_is_lost_are_adopted_at_once[reset-valkey-9.1]",
    ),
    Bug(
        "the client tries commands again",
        (
            (
                "redisbroker/link.py",
                "        return await self._told(await self._exchange(commands, block))\n",
                "        try:\n"
                "            return await self._told(await self._exchange(commands, block))\n"
                "        except Unavailable:\n"
                "            await self._ready()\n"
                "            return await self._told(await self._exchange(commands, block))\n",
            ),
        ),
        f"{REPLIES}::test_entries_of_a_read_whose_reply_is_lost_are_adopted_at_once[reset-valkey-9.1]",
    ),
    Bug(
        "dead letter without owner check",
        (
            (
                "redisbroker/scripts/settling.py",
                "if not mine(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]) then return 0 end\n"
                "redis.call('XADD', KEYS[2]",
                "redis.call('XADD', KEYS[2]",
            ),
        ),
        f"{REPLIES}::test_a_settlement_whose_reply_is_lost_has_happened_once[valkey-9.1-DEAD_LETTER-reply]",
    ),
    Bug(
        "release without refund",
        (("redisbroker/scripts/settling.py", "'RETRYCOUNT', count - 1, 'JUSTID'", "'RETRYCOUNT', count, 'JUSTID'"),),
        f"{SCRIPTS}::test_what_was_released_over_a_lost_connection_is_free_at_once_and_not_counted[valkey-9.1]",
    ),
    Bug(
        "claiming by idle time",
        (
            (
                "redisbroker/scripts/turning.py",
                "for at = 7, #ARGV, 2 do\n",
                "for _, p in ipairs(redis.call('XPENDING', KEYS[1], group, 'IDLE', 1000, '-', '+', 100)) do\n"
                "  if p[2] ~= me and p[2] ~= 'released' then\n"
                "    ARGV[#ARGV + 1] = p[2]\n"
                "    ARGV[#ARGV + 1] = redis.call('HGET', KEYS[4], p[2]) or ''\n"
                "  end\n"
                "end\n"
                "for at = 7, #ARGV, 2 do\n",
            ),
        ),
        f"{PLANTED}::test_what_a_live_worker_runs_for_three_leases_stays_its_own[valkey-9.1]",
    ),
    Bug(
        "beat and look in two commands",
        (
            (  # one of the two is refused while memory is short, and the other is not
                "redisbroker/scripts/membership.py",
                "redis.call('HDEL', KEYS[1], '')\nredis.call('HSET', KEYS[1], ARGV[2], ARGV[3])\nlocal names",
                "redis.pcall('HSET', KEYS[1], ARGV[2], ARGV[3])\nlocal names",
            ),
        ),
        f"{PLANTED}::test_who_cannot_beat_while_memory_is_short_is_robbed_by_nobody[valkey-9.1]",
    ),
    Bug(
        "retry in two commands",
        (
            (
                "redisbroker/scripts/settling.py",
                "redis.call('ZADD', KEYS[2], now + ARGV[6], ARGV[7])\nredis.call('XACK', KEYS[1], ARGV[1], ARGV[3])\n"
                "if ARGV[5] == '1' then redis.call('XDEL', KEYS[1], ARGV[3]) end\n",
                "redis.call('ZADD', KEYS[2], now + ARGV[6], ARGV[7])\n",
            ),
            (
                "redisbroker/settler.py",
                "        # Read-only, loading, failing over",
                "        done = [one.delivery for one in settlements if one.delay is not None]\n"
                "        if done:\n"
                "            acks = [('XACK', one.key, self._group, one.id) for one in done]\n"
                "            await self._shared.ask(self._keys.stream, (acks, []), 0)\n"
                "        # Read-only, loading, failing over",
            ),
        ),
        f"{PLANTED}::test_who_dies_right_after_a_retry_was_written_leaves_one_copy[valkey-9.1]",
    ),
)
