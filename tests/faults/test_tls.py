"""TLS to servers, sentinels and cluster nodes: verified by default, and refused for a reason that is named."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
import trustme

from streamworker import App
from streamworker.errors import AuthFailed, Unavailable
from streamworker.launch import RunOptions, run_worker
from tests.conftest import ServerOf
from tests.faults.proxy import FaultProxy
from tests.faults.topologies import SERVICE, bus_port
from tests.running import burst, working
from tests.servers import Server
from tests.waiting import wait_until


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs certificates, and the file that says so."""

    ca: trustme.CA
    file: Path

    def context(self, *names: str) -> ssl.SSLContext:
        """What a server needs that is called ``names``."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(*names).configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return _authority(tmp_path / "ca.pem")


def _authority(file: Path) -> Authority:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(file))
    return Authority(ca, file)


@pytest.fixture
def behind_tls() -> Iterator[ExitStack]:
    """What keeps proxies open until the test's end."""
    with ExitStack() as stack:
        yield stack


def put_in_front(stack: ExitStack, server: Server, context: ssl.SSLContext) -> int:
    """A proxy that ends TLS; returns its port."""
    return stack.enter_context(FaultProxy(server.port, tls=context)).port


async def handles_one(url: str, server: Server, stream: str) -> None:
    """A worker gets a message."""
    app = App("group")
    got: list[str] = []

    @app.on(stream)
    async def handle(body: str) -> None:
        got.append(body)

    server.ask("XADD", stream, "*", "data", "hello")
    await burst(app, url=url)
    assert got == ["hello"]


async def refused(url: str) -> str:
    app = App("group")
    app.on("orders")(print)
    with pytest.raises(Unavailable) as caught:
        await run_worker([app], url, RunOptions(connect_timeout=0), asyncio.Event(), lambda: None)
    assert isinstance(caught.value, AuthFailed), "trying again would not help"
    return str(caught.value)


async def test_a_certificate_is_verified(
    own_server: Server, authority: Authority, behind_tls: ExitStack, stream: str, tmp_path: Path
) -> None:
    port = put_in_front(behind_tls, own_server, authority.context("localhost"))
    ours = f"?ssl_ca_certs={authority.file}"
    await handles_one(f"rediss://localhost:{port}/0{ours}", own_server, stream)
    assert "unable to get local issuer certificate" in await refused(f"rediss://localhost:{port}/0")
    other = _authority(tmp_path / "other.pem")
    assert "CERTIFICATE_VERIFY_FAILED" in await refused(f"rediss://localhost:{port}/0?ssl_ca_certs={other.file}")
    text = await refused(f"rediss://:SW-CANARY@127.0.0.1:{port}/0{ours}")
    assert "IP address mismatch" in text
    assert "CANARY" not in text
    await handles_one(f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none", own_server, f"{stream}-b")


async def test_a_certificate_that_is_replaced_by_a_wrong_one_is_refused_and_the_right_one_taken_again(
    own_server: Server, authority: Authority, stream: str, tmp_path: Path
) -> None:
    app = App("group")
    got: list[str] = []

    @app.on(stream)
    async def handle(body: str) -> None:
        got.append(body)

    with FaultProxy(own_server.port, tls=authority.context("localhost")) as proxy:
        url = f"rediss://localhost:{proxy.port}/0?ssl_ca_certs={authority.file}"
        with (
            patch("streamworker.acquirer._AUTH_PAUSE", (0.1, 0.2)),
            patch("streamworker.redisbroker.driver._LOGIN_PAUSE", 0.1),
        ):
            async with working(app, url=url):
                own_server.ask("XADD", stream, "*", "data", "before")
                await wait_until(lambda: got == ["before"])
                proxy.tls = _authority(tmp_path / "other.pem").context("localhost")
                proxy.break_all()
                own_server.ask("XADD", stream, "*", "data", "after")
                tried = len(proxy.opened)
                await wait_until(lambda: len(proxy.opened) > tried + 3)
                assert got == ["before"]
                proxy.tls = authority.context("localhost")
                await wait_until(lambda: got == ["before", "after"])


async def test_sentinels_and_their_primary_are_reached_by_tls(
    server_kind: str, make_server: ServerOf, authority: Authority, behind_tls: ExitStack, stream: str
) -> None:
    """The sentinel names the proxy in front of the primary, as its configuration says."""
    primary = make_server(server_kind)
    front = put_in_front(behind_tls, primary, authority.context("127.0.0.1"))
    sentinel = make_server(server_kind, "--sentinel", config=f"sentinel monitor {SERVICE} 127.0.0.1 {front} 1\n")
    port = put_in_front(behind_tls, sentinel, authority.context("localhost"))
    url = f"sentinels://localhost:{port}/{SERVICE}"
    await handles_one(f"{url}?ssl_ca_certs={authority.file}", primary, stream)
    assert "CERTIFICATE_VERIFY_FAILED" in await refused(url)


async def test_a_cluster_is_reached_by_tls(
    server_kind: str, make_server: ServerOf, authority: Authority, behind_tls: ExitStack, stream: str
) -> None:
    """The node tells the port of the proxy in front of it."""
    node = make_server(server_kind, "--cluster-enabled", "yes", "--cluster-port", str(bus_port()))
    front = put_in_front(behind_tls, node, authority.context("127.0.0.1", "localhost"))
    node.ask("CONFIG", "SET", "cluster-announce-port", str(front))
    node.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    await wait_until(lambda: b"cluster_state:ok" in node.ask("CLUSTER", "INFO"))
    url = f"clusters://localhost:{front}"
    await handles_one(f"{url}?ssl_ca_certs={authority.file}", node, stream)
    assert "CERTIFICATE_VERIFY_FAILED" in await refused(url)
