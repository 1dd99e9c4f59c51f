"""Asking: commands and scripts for who looks on and who steers, at the server that has a stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.crc import key_slot

from streamworker.errors import BrokerError
from streamworker.logs import clean
from streamworker.redisbroker.faults import Moved
from streamworker.redisbroker.settler import Question
from streamworker.redisbroker.shared import SharedLinks


class Asking:
    """Puts one question at a time; where a stream has just moved, to the server that has it now."""

    def __init__(self, links: SharedLinks) -> None:
        self._links = links

    async def script(self, stream: str, *call: Any) -> Any:
        """Run a script: the script, its keys, its arguments.

        Raises:
            BrokerError: also where the keys lie in several slots of a cluster; the text says so.
        """
        script, keys, arguments = call
        try:
            return await self._ask(stream, ([], [(script, keys, _bytes(arguments))]))
        except BrokerError as error:
            elsewhere = isinstance(error, Moved) or "CROSSSLOT" in str(error)
            if elsewhere and len({key_slot(key) for key in (encoded(stream), *keys)}) > 1:
                raise BrokerError(
                    f"{clean(stream, 60)}: a name with a brace that is no {{tag}} will not do on a Cluster, since what "
                    "is kept beside the stream lies in other slots"
                ) from None
            raise

    async def command(self, stream: str, *command: Any) -> Any:
        """Run one command."""
        return await self._ask(stream, ([_bytes(command)], []))

    async def _ask(self, stream: str, question: Question) -> Any:
        for again in (True, False):
            (reply,) = await self._links.ask(encoded(stream), question)
            if isinstance(reply, Moved) and again:
                continue
            if isinstance(reply, BrokerError):
                raise reply
            return reply
        raise AssertionError("not reached")


def _bytes(arguments: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(encoded(one) if isinstance(one, str) else one for one in arguments)


def encoded(name: str) -> bytes:
    """A name byte for byte: other programs may use any."""
    return name.encode(errors="surrogateescape")


def decoded(name: bytes) -> str:
    """The name again."""
    return name.decode(errors="surrogateescape")


def pairs(flat: list[Any]) -> dict[bytes, Any]:
    """A flat list of names and values by name."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
