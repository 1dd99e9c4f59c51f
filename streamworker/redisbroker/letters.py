"""RedisLetters: what can be done to dead letters, each in one step on the server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from streamworker.monitoring.entries import Letter
from streamworker.monitoring.marks import marked
from streamworker.redisbroker import scripts
from streamworker.redisbroker.asking import Asking
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.packing import pack


class RedisLetters:
    """``desk.Letters`` on Redis."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def redrive(self, stream: str, group: str, letters: Sequence[Letter]) -> list[bool]:
        keys = Keys.of(stream, group)
        # Asked at the same time, they share round trips.
        replies = await asyncio.gather(
            *(
                self._asking.script(
                    stream,
                    scripts.REDRIVE,
                    (keys.dead, keys.retry),
                    (letter.id, letter.facts.get("id", letter.id), pack(marked(letter.fields, letter.marks))),
                )
                for letter in letters
            ),
            return_exceptions=True,  # nothing may be under way any more when the first error is told
        )
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return [bool(reply) for reply in replies]

    async def amend(self, stream: str, group: str, letter: Letter) -> str | None:
        keys = Keys.of(stream, group)
        packed = pack(marked(letter.fields, letter.marks))
        id = await self._asking.script(stream, scripts.AMEND, (keys.dead,), (letter.id, packed))
        return None if id is None else str(id, "ascii")

    async def drop(self, stream: str, group: str, ids: Sequence[str]) -> int:
        return int(await self._asking.command(stream, "XDEL", Keys.of(stream, group).dead, *ids))
