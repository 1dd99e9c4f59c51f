"""The fault proxy breaks what it is told to break and nothing else."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import trustme

from streamworker.redisbroker import scripts
from tests.conftest import ServerOf
from tests.faults.proxy import FaultProxy
from tests.faults.resp import Framer, request
from tests.waiting import wait_until_sync


class Client:
    """A plain socket: what goes wrong shows as it is."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected

    def send(self, *words: str | bytes) -> None:
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(one), one) for one in parts))

    def ask(self, *words: str | bytes) -> bytes:
        self.send(*words)
        return self.socket.recv(65_536)

    def hears_nothing(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(1)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(5)
        return False


Connect = Callable[..., Client]


@pytest.fixture
def server_port(shared_server: ServerOf) -> int:
    return shared_server("valkey-9.1").port


@pytest.fixture
def proxy(server_port: int) -> Iterator[FaultProxy]:
    with FaultProxy(server_port) as proxy:
        yield proxy


@pytest.fixture
def connect() -> Iterator[Connect]:
    """``connect(proxy)``: a further client, closed at the test's end."""
    with ExitStack() as stack:

        def connect(proxy: FaultProxy, context: ssl.SSLContext | None = None, timeout: float = 5.0) -> Client:
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), timeout))
            if context is None:
                return Client(plain)
            return Client(stack.enter_context(context.wrap_socket(plain, server_hostname="localhost")))

        yield connect


@pytest.fixture
def client(proxy: FaultProxy, connect: Connect) -> Client:
    return connect(proxy)


def test_messages_are_cut_out_of_any_pieces() -> None:
    messages = [
        b"+OK\r\n",
        b"*2\r\n$3\r\na\r\n\r\n*1\r\n:1\r\n",
        b"*-1\r\n",
        b"$0\r\n\r\n",
        b"%1\r\n+a\r\n_\r\n",
        b"PING\r\n",
    ]
    whole = b"".join(messages)
    for size in (1, 2, 7, len(whole)):
        framer = Framer()
        found = [one for at in range(0, len(whole), size) for one in framer.feed(whole[at : at + size])]
        assert found == messages


def test_a_request_tells_its_command_or_the_name_of_our_script() -> None:
    retry = scripts.RETRY
    by_name = b"*3\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n0\r\n" % retry.sha.encode()
    in_full = b"*3\r\n$4\r\neval\r\n$%d\r\n%b\r\n$1\r\n0\r\n" % (len(retry.source), retry.source)
    assert [request(raw).name for raw in (by_name, in_full, b"ping\r\n")] == ["RETRY", "RETRY", "PING"]
    assert request(by_name).words[2] == b"0"


def test_what_no_rule_is_about_passes_and_is_counted(proxy: FaultProxy, client: Client, stream: str) -> None:
    with proxy.lose_reply("XACK"), proxy.black_hole(on="reading"):
        assert client.ask("PING") == b"+PONG\r\n"
        assert client.ask("XADD", stream, "*", "data", "1").startswith(b"$")
    assert proxy.totals == {"PING": 1, "XADD": 1}
    assert [one.name for one in proxy.commands(apart="publishing")] == []
    assert len(proxy.opened) == proxy.connected() == proxy.connected("publishing") == 1


def test_a_lost_reply_is_of_a_command_that_was_carried_out(
    proxy: FaultProxy, client: Client, stream: str, connect: Connect
) -> None:
    rule = proxy.lose_reply("INCR", skip=1)
    assert client.ask("INCR", stream) == b":1\r\n"
    with pytest.raises(ConnectionResetError):
        client.ask("INCR", stream)
    assert rule.hits == 1
    assert connect(proxy).ask("INCR", stream) == b":3\r\n"


def test_a_lost_request_is_of_a_command_that_was_not(
    proxy: FaultProxy, client: Client, stream: str, connect: Connect
) -> None:
    proxy.lose_request("INCR", how="close")
    assert client.ask("INCR", stream) == b""
    assert connect(proxy).ask("INCR", stream) == b":1\r\n"


def test_half_a_reply(proxy: FaultProxy, client: Client) -> None:
    proxy.cut_reply("ECHO")
    assert client.ask("ECHO", "1234567890") == b"$10\r\n123"
    assert client.socket.recv(10) == b""


def test_replies_are_late_and_keep_their_order(proxy: FaultProxy, client: Client) -> None:
    proxy.delay(0.2, 0.1, command="ECHO", times=1)
    begin = time.monotonic()
    client.send("ECHO", "1")
    client.send("PING")
    with client.socket.makefile("rb") as file:
        assert [file.readline() for _ in range(3)] == [b"$1\r\n", b"1\r\n", b"+PONG\r\n"]
    assert time.monotonic() - begin >= 0.1


def test_a_black_hole_tells_nobody_and_holds_what_it_swallows(
    proxy: FaultProxy, client: Client, stream: str, connect: Connect
) -> None:
    with proxy.black_hole():
        client.send("INCR", stream)
        new = connect(proxy)
        new.send("INCR", stream)
        new.socket.close()  # of which the server hears later
        assert client.hears_nothing(0.2)
        assert proxy.connected() == 2
    assert client.socket.recv(10) in (b":1\r\n", b":2\r\n")
    wait_until_sync(lambda: proxy.connected() == 1)
    assert client.ask("GET", stream) == b"$1\r\n2\r\n"


def test_a_black_hole_may_work_one_way_and_begin_with_a_command(
    proxy: FaultProxy, client: Client, stream: str, server_port: int, connect: Connect
) -> None:
    with proxy.black_hole(command="INCR", towards="client", times=1):
        assert client.ask("PING") == b"+PONG\r\n"
        client.send("INCR", stream)
        assert client.hears_nothing(0.2)
        assert connect(proxy).ask("INCR", stream) == b":2\r\n"
    assert client.socket.recv(10) == b":1\r\n"


def test_connections_are_told_apart_by_what_they_have_sent(
    proxy: FaultProxy, client: Client, stream: str, connect: Connect
) -> None:
    other = connect(proxy)
    assert client.ask("XADD", stream, "*", "a", "b")
    assert other.ask("XACK", stream, "group", "1-1")
    assert proxy.break_all(on="settling") == 1
    with pytest.raises(ConnectionResetError):
        other.ask("PING")
    assert client.ask("PING") == b"+PONG\r\n"


def test_an_orphan_is_served_although_its_client_is_gone(
    proxy: FaultProxy, client: Client, stream: str, connect: Connect
) -> None:
    client.send("BLPOP", stream, "0")
    assert client.hears_nothing(0.1)
    assert proxy.orphan() == 1
    with pytest.raises(ConnectionResetError):
        client.socket.recv(10)
    other = connect(proxy)
    assert other.ask("RPUSH", stream, "lost") == b":1\r\n"
    assert other.ask("LLEN", stream) == b":0\r\n"


def test_pieces(proxy: FaultProxy, client: Client) -> None:
    with proxy.split(3):
        client.send("ECHO", "1234567890")
        with client.socket.makefile("rb") as file:
            assert file.read(17) == b"$10\r\n1234567890\r\n"


def test_new_connections_are_refused_or_reset_while_old_ones_live(
    proxy: FaultProxy, client: Client, connect: Connect
) -> None:
    assert client.ask("PING") == b"+PONG\r\n"
    with proxy.refusing(), pytest.raises(ConnectionRefusedError):
        connect(proxy)
    with proxy.reset_new(), pytest.raises(ConnectionResetError):
        connect(proxy).ask("PING")
    assert len(proxy.opened) == 2
    assert client.ask("PING") == connect(proxy).ask("PING") == b"+PONG\r\n"


def test_a_server_that_is_not_there_resets(proxy: FaultProxy, connect: Connect) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy.target = unused.getsockname()[1]
        with pytest.raises(ConnectionResetError):
            connect(proxy).ask("PING")


def test_tls_ends_in_the_proxy(server_port: int, connect: Connect) -> None:
    authority = trustme.CA()
    here, there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(here)
    authority.configure_trust(there)
    with FaultProxy(server_port, tls=here) as proxy:
        assert connect(proxy, there).ask("PING") == b"+PONG\r\n"
        with proxy.stall_handshakes(), pytest.raises(TimeoutError):
            connect(proxy, there, 0.3)
        proxy.lose_reply("PING")
        assert connect(proxy, there).ask("PING") == b""  # Python takes a reset for an end here
