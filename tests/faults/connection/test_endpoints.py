"""Servers that refuse, that are none, or that cannot be trusted: at the start, and in the middle of work."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from streamworker.errors import Unavailable
from streamworker.launch import RunOptions, run_worker
from tests.conftest import ProgramOf, ServerOf
from tests.faults.handling import Handling
from tests.faults.patience import within
from tests.faults.proxy import FaultProxy
from tests.faults.quiet import keep_quiet
from tests.running import Watched, events, everything_logged, working
from tests.waiting import wait_until

FIRST = 5.0  # seconds after it healed in which the first message must be handled
HANDLER = """
from streamworker import App

app = App("group")


@app.on("STREAM")
async def handle(body: str) -> None:
    journal("got", body)
"""
TOLD = {"http": "does not speak", "garbage": "does not speak", "silence": "no answer in time"}
STRANGERS = {
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "garbage": b"\x00\xff\xfe\x80 SSH-2.0-OpenSSH_9.6\r\n" * 10,
    "a promise of 500 MB": b"$524288000\r\nabc",
    "a closed door": b"",
}


@contextmanager
def stranger(answer: bytes | None) -> Iterator[int]:
    """A server that is no Redis: gives ``answer`` to whatever it hears and hangs up; None: never says anything.

    Yields its port.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                kept.append(connection)
                if answer is not None:
                    connection.settimeout(1.0)
                    try:
                        connection.recv(65_536)
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in kept:
                connection.close()


@pytest.mark.parametrize("server_kind", ["redis-8.2"])
async def test_a_server_that_refuses_at_the_start_is_waited_for_quietly_and_sigterm_ends_the_wait(
    proxy: FaultProxy, watched: Watched, stream: str, program: ProgramOf
) -> None:
    refusing = proxy.reset_new()
    early, late = (program(HANDLER.replace("STREAM", stream), url=proxy.url) for _ in range(2))
    await wait_until(lambda: all("redis.waiting" in one.log for one in (early, late)), 20)
    await keep_quiet(proxy, [early, late], workers=2)
    assert len(proxy.opened) > 4, "it tries again"
    early.sigterm()
    asked = asyncio.get_running_loop().time()
    assert await early.ended() == 0
    assert asyncio.get_running_loop().time() - asked < 3.0
    refusing.heal()
    await watched.add("data", "first")
    await within(FIRST, lambda: any(one.words == ("got", "first") for one in late.journal))
    late.sigterm()
    assert await late.ended() == 0
    assert [log.count("redis.waiting") for log in (early.log, late.log)] == [1, 1]


@pytest.mark.parametrize("kind", [*STRANGERS, "silence"])
async def test_what_is_no_redis_is_told_at_the_start(kind: str, stream: str, caplog: pytest.LogCaptureFixture) -> None:
    with stranger(STRANGERS.get(kind)) as port:
        options = RunOptions(connect_timeout=0.5)
        async with asyncio.timeout(20):
            with pytest.raises(Unavailable, match=TOLD.get(kind, "closed")) as told:
                await run_worker(
                    [Handling(stream).app], f"redis://127.0.0.1:{port}/0", options, asyncio.Event(), lambda: None
                )
    assert len(events(caplog, "redis.waiting")) == (kind != "silence"), "all the time there was went into one try"
    assert len(str(told.value)) < 400
    assert str(told.value).isprintable(), "what a stranger sends goes to no terminal"


@pytest.mark.parametrize(
    ("server_kind", "kind"),
    [("redis-8.2", "garbage"), ("valkey-9.1", "silence")],
)
async def test_a_worker_that_meets_a_stranger_keeps_quiet_and_works_on_with_its_server(
    kind: str, proxy: FaultProxy, watched: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    handling, server = Handling(stream, lease=6.0), proxy.target
    async with working(handling.app, url=proxy.url, patient=True):
        await watched.add("data", "before")
        await handling.got("before")
        with stranger(STRANGERS.get(kind)) as port:
            proxy.target = port
            proxy.break_all()
            await wait_until(lambda: events(caplog, "redis.unavailable"), 20)
            await watched.add("data", "meanwhile")
            await keep_quiet(proxy, caplog)
            proxy.target = server
        await watched.add("data", "afterwards")
        await handling.got("meanwhile", "afterwards", timeout=FIRST)
        await watched.rests()
    assert max(handling.counts.values()) == 1
    await watched.check_nothing_is_left()


class Authority:
    """Makes certificates, and a file by which clients trust them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self.trust = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.trust))

    def context(self, host: str = "127.0.0.1", *, expired: bool = False) -> ssl.SSLContext:
        until = datetime.now(UTC) - timedelta(days=1) if expired else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(host, not_after=until).configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls_proxy(shared_server: ServerOf, server_kind: str, authority: Authority) -> Iterator[FaultProxy]:
    with FaultProxy(shared_server(server_kind).port, tls=authority.context()) as proxy:
        yield proxy


Wrong = Callable[[Authority], ssl.SSLContext]
UNTRUSTED: dict[str, Wrong] = {
    "expired": lambda authority: authority.context(expired=True),
    "of another host": lambda authority: authority.context("redis.example.org"),
    "of an unknown authority": lambda _: _unknown(),
}


def _unknown() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.mark.parametrize("server_kind", ["valkey-9.1"])
async def test_a_certificate_that_runs_out_is_told_and_its_successor_is_taken(
    tls_proxy: FaultProxy,
    authority: Authority,
    watched: Watched,
    stream: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    handling, right = Handling(stream, lease=3.0), tls_proxy.tls
    async with working(handling.app, url=f"{tls_proxy.url}?ssl_ca_certs={authority.trust}", patient=True):
        await watched.add("data", "before")
        await handling.got("before")
        tls_proxy.tls = authority.context(expired=True)
        tls_proxy.break_all()
        await wait_until(lambda: "certificate" in everything_logged(caplog).lower(), 20)
        await watched.add("data", "meanwhile")
        await keep_quiet(tls_proxy, caplog)
        tls_proxy.tls = right
        await watched.add("data", "afterwards")
        await handling.got("meanwhile", "afterwards", timeout=31.0)  # its pauses are long, as for a wrong password
        await watched.rests()
    assert max(handling.counts.values()) == 1
    await watched.check_nothing_is_left()


@pytest.mark.parametrize("server_kind", ["redis-8.2"])
@pytest.mark.parametrize("wrong", list(UNTRUSTED))
async def test_no_command_is_sent_to_a_server_that_cannot_be_trusted(
    wrong: str, tls_proxy: FaultProxy, authority: Authority, stream: str
) -> None:
    tls_proxy.tls = UNTRUSTED[wrong](authority)
    url = f"{tls_proxy.url}?ssl_ca_certs={authority.trust}"
    with pytest.raises(Unavailable, match="certificate"):
        await run_worker([Handling(stream).app], url, RunOptions(connect_timeout=0.2), asyncio.Event(), lambda: None)
    assert not tls_proxy.totals


@pytest.mark.parametrize("server_kind", ["redis-8.2"])
async def test_a_certificate_is_checked_where_the_url_says_nothing_of_it(tls_proxy: FaultProxy, stream: str) -> None:
    options = RunOptions(connect_timeout=0.2)
    with pytest.raises(Unavailable, match="certificate"):
        await run_worker([Handling(stream).app], tls_proxy.url, options, asyncio.Event(), lambda: None)
    assert not tls_proxy.totals


@pytest.mark.parametrize("server_kind", ["valkey-9.1"])
async def test_a_tls_handshake_that_stalls_is_given_up_in_time(
    tls_proxy: FaultProxy, authority: Authority, watched: Watched, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    handling = Handling(stream, lease=6.0)
    async with working(handling.app, url=f"{tls_proxy.url}?ssl_ca_certs={authority.trust}", patient=True):
        await watched.add("data", "before")
        await handling.got("before")
        with tls_proxy.stall_handshakes():
            tls_proxy.break_all()
            tried = len(tls_proxy.opened)
            await wait_until(lambda: len(tls_proxy.opened) > tried + 3, 30)  # the heartbeat's, and a second try
            await watched.add("data", "meanwhile")
            await keep_quiet(tls_proxy, caplog)
        await handling.got("meanwhile", timeout=FIRST)
        tls_proxy.lose_reply("XREADGROUP")
        await watched.add("data", "afterwards")
        await handling.got("afterwards")
        await watched.rests()
    assert max(handling.counts.values()) == 1
    await watched.check_nothing_is_left()
