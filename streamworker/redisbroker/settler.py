"""Settling for one group: acks gathered into one XACK, failures each in one script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from streamworker.broker import Settlement
from streamworker.errors import BrokerError, Unavailable
from streamworker.message import Delivery
from streamworker.redisbroker import scripts
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Argument, Command, Link, Script
from streamworker.redisbroker.packing import pack
from streamworker.redisbroker.shared import SharedLinks

_RELEASE_PAGE: Final = 1000

ScriptCall: TypeAlias = tuple[Script, Sequence[bytes], Sequence[Argument]]
Question: TypeAlias = tuple[list[Command], list[ScriptCall]]


async def exchange(link: Link, questions: list[Question]) -> list[list[Any]]:
    """All commands and scripts of all questions in two round trips; the answers of each in its order."""
    commands = [command for question in questions for command in question[0]]
    calls = [call for question in questions for call in question[1]]
    replies = iter(await link.pipeline(commands) if commands else [])
    results = iter(await link.scripts(calls) if calls else [])
    return [[next(replies) for _ in question[0]] + [next(results) for _ in question[1]] for question in questions]


class RedisSettler:
    """``broker.Settler`` on Redis; its connections are shared by all groups of the process."""

    def __init__(self, shared: SharedLinks, keys: Keys, group: str, consumer: str) -> None:
        self._shared = shared
        self._keys = keys
        self._group = group
        self._me = consumer

    async def settle(self, acks: Sequence[Delivery], settlements: Sequence[Settlement]) -> list[bool | BrokerError]:
        main = [delivery.id for delivery in acks if delivery.key == self._keys.stream]
        retried = [delivery.id for delivery in acks if delivery.key != self._keys.stream]
        commands: list[Command] = [("XACK", self._keys.stream, self._group, *main)] if main else []
        calls = [self._settle_call(settlement) for settlement in settlements]
        if retried:
            calls.append((scripts.ACK_RETRIED, (self._keys.retry,), (self._group, *retried)))
        size = sum(len(argument) for call in calls for argument in call[2] if isinstance(argument, bytes))
        replies: list[Any] = await self._shared.ask(self._keys.stream, (commands, calls), size)
        # Read-only, loading, failing over: the connection is alive, but the server is not at work.
        unavailable = [reply for reply in replies if isinstance(reply, Unavailable)]
        if unavailable:
            raise unavailable[0]
        first, last = len(commands), len(commands) + len(settlements)
        refused = [reply for reply in (*replies[:first], *replies[last:]) if isinstance(reply, BrokerError)]
        results = [reply if isinstance(reply, BrokerError) else bool(reply) for reply in replies[first:last]]
        return [*results, refused[0] if refused else True]

    def _settle_call(self, settlement: Settlement) -> ScriptCall:
        delivery = settlement.delivery
        retried = delivery.key != self._keys.stream
        fence = (self._group, self._me, delivery.id, delivery.deliveries, "1" if retried else "0")
        packed = pack(delivery.fields)
        if settlement.delay is not None:
            spent = delivery.deliveries if settlement.counted else delivery.deliveries - 1
            member = b"%s %d %s" % (delivery.origin, spent, packed)
            milliseconds = int(settlement.delay * 1000)
            return (
                scripts.RETRY,
                (delivery.key, self._keys.delayed, self._keys.consumers),
                (*fence, milliseconds, member),
            )
        if settlement.letter is not None:
            letter: list[Argument] = []
            for name, value in settlement.letter.items():
                letter += (f"sw-{name}", value.encode(errors="backslashreplace"))
            return scripts.DEAD_LETTER, (delivery.key, self._keys.dead), (*fence, *letter, "sw-fields", packed)
        return scripts.DROP, (delivery.key,), fence

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        keys = (self._keys.stream, self._keys.retry)
        calls: list[ScriptCall] = []
        for at in range(0, len(deliveries), _RELEASE_PAGE):
            entries: list[Argument] = []
            for delivery in deliveries[at : at + _RELEASE_PAGE]:
                entries += (2 if delivery.key == self._keys.retry else 1, delivery.id, delivery.deliveries)
            calls.append((scripts.RELEASE, keys, (self._group, self._me, *entries)))
        released = 0
        for reply in await self._shared.ask(self._keys.stream, ([], calls)):
            if isinstance(reply, BrokerError):
                raise reply
            released += reply
        return released
