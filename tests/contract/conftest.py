"""The backends that are held to the contract; a further one is a further branch of ``backend`` and ``make_backend``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.conftest import ServerOf
from tests.contract.backend import Backend, Party
from tests.contract.redis_backend import RedisBackend

BackendOf = Callable[[], Backend]
NEWER = ["valkey-9.1", "redis-8.2"]


@pytest.fixture(params=NEWER)
def server_kind(request: pytest.FixtureRequest) -> str:
    """The contract is held on two kinds; the tests marked ``on_all_servers`` on Redis 6.2 too."""
    return str(request.param)


@pytest.fixture
def backend(server_kind: str, shared_server: ServerOf) -> Backend:
    """A backend that all tests share: it is left running."""
    return RedisBackend(shared_server(server_kind))


@pytest.fixture
def make_backend(server_kind: str, make_server: ServerOf) -> BackendOf:
    """``make_backend()``: one backend more, of this test alone; it keeps over a restart what it has answered for."""
    return lambda: RedisBackend(make_server(server_kind, appendonly=True))


@pytest.fixture
def own_backend(make_backend: BackendOf) -> Backend:
    """A backend of this test alone, to be stopped, restarted and wiped."""
    return make_backend()


@pytest.fixture
async def party(backend: Backend) -> AsyncIterator[Party]:
    party = Party(backend.broker())
    yield party
    await party.close()


@pytest.fixture
async def own_party(own_backend: Backend) -> AsyncIterator[Party]:
    party = Party(own_backend.broker())
    yield party
    await party.close()
