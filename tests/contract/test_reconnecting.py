"""The contract of coming back: ten thousand messages over two restarts of the server, once and ten times at once."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract import reconnecting
from tests.contract.backend import Backend
from tests.contract.conftest import BackendOf
from tests.running import impatience, on_all_servers


@on_all_servers
@pytest.mark.timeout(120)
async def test_ten_thousand_messages_survive_restarts_of_the_server_at_a_third_and_at_half(
    own_backend: Backend, stream: str
) -> None:
    reconnecting.check(await reconnecting.run(own_backend, stream))


@pytest.mark.timeout(240)
async def test_ten_runs_at_once_survive_restarts_of_their_servers(make_backend: BackendOf, stream: str) -> None:
    backends = [make_backend() for _ in range(10)]
    with impatience():  # around all: patches that overlap in time would not be undone in order
        runs = await asyncio.gather(*(reconnecting.run(backend, stream) for backend in backends))
    for run in runs:
        reconnecting.check(run)
