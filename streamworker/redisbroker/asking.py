"""Asking: commands and scripts for who looks on and who steers, at the server that has a stream."""

from __future__ import annotations

from typing import Any

from streamworker.errors import BrokerError
from streamworker.redisbroker.faults import Moved
from streamworker.redisbroker.settler import Question
from streamworker.redisbroker.shared import SharedLinks


class Asking:
    """Puts one question at a time; where a stream has just moved, to the server that has it now."""

    def __init__(self, links: SharedLinks) -> None:
        self._links = links

    async def script(self, stream: str, *call: Any) -> Any:
        """Run a script: the script, its keys, its arguments."""
        script, keys, arguments = call
        return await self._ask(stream, ([], [(script, keys, arguments)]))

    async def command(self, stream: str, *command: Any) -> Any:
        """Run one command."""
        return await self._ask(stream, ([command], []))

    async def _ask(self, stream: str, question: Question) -> Any:
        for again in (True, False):
            (reply,) = await self._links.ask(encoded(stream), question)
            if isinstance(reply, Moved) and again:
                continue
            if isinstance(reply, BrokerError):
                raise reply
            return reply
        raise AssertionError("not reached")


def encoded(name: str) -> bytes:
    """A name byte for byte: other programs may use any."""
    return name.encode(errors="surrogateescape")


def decoded(name: bytes) -> str:
    """The name again."""
    return name.decode(errors="surrogateescape")
