"""The nodes of a cluster: which of them has which slot, learnt from whichever answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot

from streamworker.errors import AuthFailed, BrokerError, Unavailable
from streamworker.redisbroker.driver import Driver, Place
from streamworker.redisbroker.faults import Moved
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Link
from streamworker.redisbroker.topology import FAILOVER_TIMEOUT, Server, Topology

_APART: Final = 0.5  # seconds between two looks at the map, whoever wants one
_ASK: Final = 1.0  # seconds that a node may take to show it


class Cluster:
    """A ``Topology`` of many servers, each with some of the slots.

    Args:
        driver: connects to every node.
        seeds: nodes that the URL names; the others are found through them.
    """

    needs_primary = False  # a replica answers MOVED
    connect_timeout = FAILOVER_TIMEOUT
    serves = True

    def __init__(self, driver: Driver, seeds: Sequence[Place]) -> None:
        self._driver = driver
        self._seeds = tuple(seeds)
        self._slots: Mapping[int, Place] = {}
        self._suspects: frozenset[Place] = frozenset()
        self._next_look = 0.0

    def connection(self, place: Place) -> AbstractConnection:
        return self._driver.connection(place)

    async def locate(self, key: bytes | None) -> Place:
        if not self._sure(key):
            await self._look()
        place = self._place(key)
        if place is None:
            raise Unavailable(f"no node of the cluster serves slot {_slot(key)}")
        return place

    def holds(self, key: bytes | None, place: Place) -> bool:
        return key is None or self._slots.get(_slot(key)) == place

    def failed(self, place: Place, error: BrokerError) -> None:
        self._driver.failed(error)
        if isinstance(error, Moved):
            self._slots = {**self._slots, error.slot: Place(error.host, error.port)}
        else:
            self._suspects |= {place}

    def knows(self, key: bytes) -> bool:
        return self._sure(key)

    async def part(self, key: bytes) -> Node:
        return Node(self, await self.locate(key))

    def at(self, place: Place) -> Node:
        return Node(self, place)

    async def parts(self) -> list[Topology]:
        await self._look()
        return [Node(self, place) for place in sorted(set(self._slots.values()))]

    def has(self, place: Place) -> bool:
        """Whether any slot is at ``place``."""
        return place in self._slots.values()

    def _place(self, key: bytes | None) -> Place | None:
        if key is not None:
            return self._slots.get(_slot(key))
        sound = [place for place in set(self._slots.values()) if place not in self._suspects]
        return random.choice(sound) if sound else None

    def _sure(self, key: bytes | None) -> bool:
        place = self._place(key)
        return place is not None and place not in self._suspects

    async def _look(self) -> None:
        """Ask for the map, but not too often: when a node dies, everybody asks for what it had.

        A node that is cut off shows an old map for as long as it lives, so each time another one is asked first.
        """
        wait = self._next_look - monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
            if monotonic() < self._next_look:
                return  # another one of those who waited looks
        self._next_look = monotonic() + _APART
        suspects = self._suspects
        nodes = list({*self._slots.values(), *self._seeds})
        random.shuffle(nodes)
        nodes.sort(key=lambda node: node in suspects)
        errors: list[BrokerError] = []
        for node in nodes:
            try:
                self._slots = await self._ask(node)
            except BrokerError as error:
                errors.append(error)
            else:
                self._suspects -= suspects
                return
        for said in errors:
            if isinstance(said, AuthFailed) or not isinstance(said, Unavailable):
                raise said
        raise Unavailable(f"no node of the cluster answers at {', '.join(map(str, nodes))}: {errors[0]}")

    async def _ask(self, node: Place) -> dict[int, Place]:
        link = Link(Server(self._driver, node), timeout=_ASK)
        try:
            async with asyncio.timeout(_ASK):
                ranges: list[list[Any]] = await link.call("CLUSTER", "SLOTS")
        except TimeoutError:
            raise Unavailable(f"{node} does not answer") from None
        finally:
            await link.close()
        slots: dict[int, Place] = {}
        for first, last, primary, *_replicas in ranges:
            host = (primary[0] or b"").decode()  # empty where a node does not know its own address
            slots.update(dict.fromkeys(range(first, last + 1), Place(host or node.host, primary[1])))
        if not slots:  # it has left the cluster
            raise Unavailable(f"{node} knows of no slots")
        return slots


@dataclass(frozen=True, slots=True)
class Node:
    """A ``Topology`` of one node, for connections that many keys share."""

    cluster: Cluster
    place: Place
    needs_primary: bool = field(default=False, init=False)
    connect_timeout: float = field(default=FAILOVER_TIMEOUT, init=False)

    @property
    def serves(self) -> bool:
        return self.cluster.has(self.place)

    def connection(self, place: Place) -> AbstractConnection:
        return self.cluster.connection(place)

    async def locate(self, key: bytes | None) -> Place:
        return self.place

    def holds(self, key: bytes | None, place: Place) -> bool:
        return True

    def failed(self, place: Place, error: BrokerError) -> None:
        self.cluster.failed(place, error)

    def knows(self, key: bytes) -> bool:
        return self.cluster.knows(key)

    async def part(self, key: bytes) -> Topology:
        return self

    def at(self, place: Place) -> Topology:
        return Node(self.cluster, place)

    async def parts(self) -> list[Topology]:
        return [self]


def _slot(key: bytes | None) -> int:
    return key_slot(key) if key is not None else 0


def in_one_slot(keys: Keys) -> bool:
    """Whether a script may touch all of them."""
    return len({key_slot(key) for key in keys.all()}) == 1
