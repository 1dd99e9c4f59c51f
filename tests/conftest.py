"""The fixtures of every test: servers, a client, a stream name; and the check that no process is left behind."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.programs import Program
from tests.roles import as_role
from tests.servers import KINDS, Server, nothing_is_left, stop_all


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What tests of bad input print may hold lone surrogates, which cannot be sent between test processes."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


ServerOf = Callable[..., Server]
ProgramOf = Callable[..., Program]


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails the session if a server or a worker of these tests still runs at its end."""
    token = f"STREAMWORKER_TESTS={uuid.uuid4().hex}"
    name, _, value = token.partition("=")
    os.environ[name] = value  # inherited by everything the tests start, however far removed
    yield
    del os.environ[name]
    nothing_is_left(tmp_path_factory.getbasetemp(), token)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    """What the developer's shell says about Redis must not reach a test."""
    for name in list(os.environ):
        if name == "REDIS_URL" or (name.startswith("STREAMWORKER_") and name != "STREAMWORKER_TESTS"):
            del os.environ[name]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """asyncio without uvloop: under uvloop the timeout of a test never fires."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory, _no_process_is_left: None) -> Iterator[ServerOf]:
    """``shared_server(kind)``: one server of each kind for the whole session, started when first wanted."""
    started: dict[str, Server] = {}
    with ExitStack() as stack:

        def get(kind: str) -> Server:
            if kind not in started:
                started[kind] = Server(kind, tmp_path_factory.mktemp(kind)).start()
                stack.callback(stop_all, started[kind])
            return started[kind]

        yield get


@pytest.fixture(params=list(KINDS))
def server_kind(request: pytest.FixtureRequest) -> str:
    """The kind of server of this run of the test: each test that uses it runs once on each."""
    return str(request.param)


@pytest.fixture
def redis_url(server_kind: str, shared_server: ServerOf) -> str:
    """The URL of a server that all tests share: use ``stream`` for a name of your own, and leave it running.

    Its user is the worker's of docs/security.md; ``redis`` may do everything.
    """
    return as_role(shared_server(server_kind).url)


@pytest.fixture
def admin_url(server_kind: str, shared_server: ServerOf) -> str:
    """The same server for a user who may do everything: for tests that ask what no worker asks."""
    return shared_server(server_kind).url


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[ServerOf]:
    """``make_server(kind, *arguments, appendonly=…)``: further servers, started, stopped at the test's end."""
    with ExitStack() as stack:

        def make(kind: str, *arguments: str, **options: Any) -> Server:
            folder = tmp_path / f"server-{uuid.uuid4().hex[:8]}"
            folder.mkdir()
            server = Server(kind, folder, *arguments, **options)
            stack.callback(stop_all, server)
            return server.start()

        yield make


@pytest.fixture
def own_server(server_kind: str, make_server: ServerOf) -> Server:
    """A server of this test alone, with an append-only file: to be killed, paused, restarted or flushed."""
    return make_server(server_kind, appendonly=True)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[ProgramOf]:
    """``program(source, *args, url=…, env=…)``: a running ``streamworker run app:app``, killed at the test's end.

    ``program(None, …)`` starts another one of the same folder, so with the same app and journal.
    """
    with ExitStack() as stack:

        def start(source: str | None, *args: str, folder: Path = tmp_path, **options: Any) -> Program:
            program = Program(source, *args, folder=folder, **options)
            stack.callback(program.end)
            return program

        yield start


@pytest.fixture
def stream() -> str:
    """A stream name that no other test uses."""
    return f"stream-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def redis(admin_url: str) -> AsyncIterator[Redis]:
    """A plain client of the shared server: bytes in, bytes out."""
    client = Redis.from_url(admin_url, protocol=2, decode_responses=False)
    yield client
    await client.aclose()


@pytest.fixture
async def own_redis(own_server: Server) -> AsyncIterator[Redis]:
    """A plain client of ``own_server``."""
    client = Redis.from_url(own_server.url, protocol=2, decode_responses=False)
    yield client
    await client.aclose()
