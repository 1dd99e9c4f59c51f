"""Where the server for a key is: the seam between connections and single servers, sentinels and clusters."""

from __future__ import annotations

from typing import Final, Protocol

from redis.asyncio.connection import AbstractConnection

from streamworker.errors import BrokerError
from streamworker.redisbroker.driver import Driver, Place

CONNECT_TIMEOUT: Final = 5.0
# Where a failover may have happened meanwhile, a server that does not answer is not waited for as long.
FAILOVER_TIMEOUT: Final = 2.0


class Topology(Protocol):
    """Shared by all connections of a process.

    Those of the heartbeat thread use it too, from an event loop of their own: nothing here is locked or
    waited for by several, and what is known is replaced as a whole.
    """

    @property
    def connect_timeout(self) -> float:
        """Seconds until a server that does not let us in is given up."""

    @property
    def needs_primary(self) -> bool:
        """Whether a connection must ask the server if it is a primary: it would refuse to write."""

    def connection(self, place: Place) -> AbstractConnection:
        """A connection to ``place``, not yet open."""

    async def locate(self, key: bytes | None) -> Place:
        """Where the server for ``key`` is now; for None, any server.

        Raises:
            Unavailable: nobody can say, or there is none at the moment.
        """

    def holds(self, key: bytes | None, place: Place) -> bool:
        """Whether ``place`` is still the server for ``key``, as far as is known without asking."""

    def failed(self, place: Place, error: BrokerError) -> None:
        """A connection to ``place`` could not be made or was lost, or the server says it is not the right one."""

    def knows(self, key: bytes) -> bool:
        """Whether ``part`` answers at once."""

    @property
    def serves(self) -> bool:
        """False once there is nothing left to be asked here."""

    async def part(self, key: bytes) -> Topology:
        """The part that has ``key`` and is one server at any time; two parts are equal if they are the same server.

        Raises:
            Unavailable: as ``locate``.
        """

    def at(self, place: Place) -> Topology:
        """The part that is the server at ``place``."""

    async def parts(self) -> list[Topology]:
        """All parts, which together have every key.

        Raises:
            Unavailable: as ``locate``.
        """


class Server:
    """A ``Topology`` of one server at one place."""

    needs_primary = False
    connect_timeout = CONNECT_TIMEOUT
    serves = True

    def __init__(self, driver: Driver, place: Place | None = None) -> None:
        self._driver = driver
        self._place = place or driver.place

    def connection(self, place: Place) -> AbstractConnection:
        return self._driver.connection(place)

    async def locate(self, key: bytes | None) -> Place:
        return self._place

    def holds(self, key: bytes | None, place: Place) -> bool:
        return True

    def failed(self, place: Place, error: BrokerError) -> None:
        self._driver.failed(error)

    def knows(self, key: bytes) -> bool:
        return True

    async def part(self, key: bytes) -> Topology:
        return self

    def at(self, place: Place) -> Topology:
        return self

    async def parts(self) -> list[Topology]:
        return [self]
