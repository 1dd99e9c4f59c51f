"""The primary behind sentinels: asked for at every connect and now and then, and asked itself what it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection

from streamworker.errors import AuthFailed, BrokerError, Unavailable
from streamworker.redisbroker.driver import Driver, Place
from streamworker.redisbroker.link import Link
from streamworker.redisbroker.topology import FAILOVER_TIMEOUT, Server, Topology

_ALL: Final = 0.3  # seconds in which all sentinels are waited for
_WATCH: Final = 2.0  # seconds between two questions while all is well
_ANY: Final = 2.0  # seconds in which more than half of them are waited for


class Sentinels:
    """A ``Topology`` of one primary, which changes.

    Args:
        driver: connects to the primary.
        asking: connects to the sentinels.
        seeds: the sentinels.
        service: what they call the primary.
    """

    needs_primary = True
    connect_timeout = FAILOVER_TIMEOUT
    serves = True

    def __init__(self, driver: Driver, asking: Driver, seeds: Sequence[Place], service: str) -> None:
        self._driver = driver
        self._asking = asking
        self._seeds = tuple(seeds)
        self._service = service
        self._primary: Place | None = None
        self._asked = 0.0

    def connection(self, place: Place) -> AbstractConnection:
        return self._driver.connection(place)

    async def locate(self, key: bytes | None) -> Place:
        """All sentinels are asked at once, and who has seen the latest failover is believed.

        One alone may be cut off together with an old primary, or not have heard yet.
        """
        self._asked = monotonic()
        asking = [asyncio.create_task(self._ask(place)) for place in self._seeds]
        try:
            done, waiting = await asyncio.wait(asking, timeout=_ALL)
            while waiting and sum(_answered(one) for one in done) <= len(asking) // 2:
                more, waiting = await asyncio.wait(waiting, timeout=_ANY, return_when=asyncio.FIRST_COMPLETED)
                if not more:
                    break
                done |= more
            found = [one.result() for one in done if _answered(one)]
            if not found:
                raise self._nobody([error for one in done if isinstance(error := one.exception(), BrokerError)])
        finally:
            for one in asking:
                one.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        self._primary = max(found)[1]
        return self._primary

    def holds(self, key: bytes | None, place: Place) -> bool:
        return place == self._primary

    def failed(self, place: Place, error: BrokerError) -> None:
        self._driver.failed(error)  # the sentinels are asked again in any case

    def knows(self, key: bytes) -> bool:
        return True

    async def part(self, key: bytes) -> Topology:
        """An old primary that only the sentinels cannot reach serves us well, and all we write there is lost.

        So whoever shares a connection asks them now and then, the heartbeat at each beat; the others go on.
        """
        if self._primary is not None and monotonic() - self._asked > _WATCH:
            with suppress(BrokerError, TimeoutError):  # then the one we have is all there is
                async with asyncio.timeout(_ANY / 2):
                    await self.locate(key)
        return self

    def at(self, place: Place) -> Topology:
        return self

    async def parts(self) -> list[Topology]:
        return [self]

    async def _ask(self, place: Place) -> tuple[int, Place]:
        link = Link(Server(self._asking, place), timeout=_ANY)
        try:
            reply: list[Any] = await link.call("SENTINEL", "MASTER", self._service)
        finally:
            await link.close()
        facts = dict(zip(reply[::2], reply[1::2], strict=False))
        return int(facts[b"config-epoch"]), Place(facts[b"ip"].decode(), int(facts[b"port"]))

    def _nobody(self, errors: list[BrokerError]) -> BrokerError:
        """What to say when no sentinel gave an answer."""
        said = [error for error in errors if not isinstance(error, Unavailable)]
        refused = [error for error in errors if isinstance(error, AuthFailed)]
        places = ", ".join(map(str, self._seeds))
        if said:
            return BrokerError(f"no sentinel at {places} knows the service {self._service!r}: {said[0]}")
        if refused:
            return AuthFailed(f"the sentinels want a login (?sentinel_username=, ?sentinel_password=): {refused[0]}")
        return Unavailable(f"no sentinel answers at {places}: {errors[0] if errors else 'no reply'}")


def _answered(asking: asyncio.Task[tuple[int, Place]]) -> bool:
    return not asking.cancelled() and asking.exception() is None
