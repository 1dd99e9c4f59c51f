"""``streamworker publish --file``: what is published of a file, and what is said when not all of it is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from redis import Redis

from streamworker import PublishFailed
from streamworker.broker import Publisher, Written
from streamworker.cli.publishing import FileCommand, Order
from streamworker.endpoint import Endpoint
from tests.commands import Said, call, command
from tests.conftest import ServerOf
from tests.faults.proxy import FaultProxy
from tests.faults.test_hostile_texts import ALL, is_harmless
from tests.running import on_all_servers
from tests.servers import Server, dying_with_us
from tests.terminal import Terminal
from tests.waiting import wait_until_sync


@pytest.fixture
def server_kind() -> str:
    """``on_all_servers`` says what has to do with the server."""
    return "valkey-9.1"


@pytest.fixture
def client(admin_url: str) -> Redis:
    return Redis.from_url(admin_url, protocol=2)


@pytest.fixture
def proxy(server_kind: str, shared_server: ServerOf) -> Iterator[FaultProxy]:
    with FaultProxy(shared_server(server_kind).port) as proxy:
        yield proxy


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def publish(stream: str, file: Path | str, *words: str, url: str, **environment: Any) -> Said:
    return call("publish", stream, "--file", str(file), *words, url=url, role="publisher", **environment)


def events(*ids: int) -> bytes:
    return b"".join(b'{"id": %d}\n' % id for id in ids)


def fields(client: Redis, stream: str) -> list[dict[bytes, bytes]]:
    found: Any = client.xrange(stream)
    return [entry for _, entry in found]


def ids(client: Redis, stream: str) -> list[int]:
    return [json.loads(entry[b"data"])["id"] for entry in fields(client, stream)]


class Piped:
    """The command, with its standard input in the hands of the test."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def ended(self) -> tuple[int, str]:
        """How it ends, while its input stays open."""
        assert self.process.stderr is not None
        code = self.process.wait(20)
        return code, self.process.stderr.read().decode()


@contextmanager
def piped(stream: str, *words: str, url: str) -> Iterator[Piped]:
    process = subprocess.Popen(
        dying_with_us(*command("publish", stream, "--file", "-", *words, url=url, role="publisher")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield Piped(process)
        finally:
            process.kill()


def publish_here(stream: str, file: Path, publisher: Publisher) -> int:
    """The command in this process, with a publisher of the test's."""

    async def opened(url: str) -> Publisher:
        return publisher

    order = Order(stream=stream, file=str(file), type=None, headers={}, rate=None, limit=None, skip=0)
    with patch("streamworker.cli.publishing.open_publisher", opened):
        return FileCommand(order).run(nullcontext(Endpoint("redis://nowhere")))


@on_all_servers
def test_each_line_is_published_as_it_is_with_type_and_headers(
    client: Redis, admin_url: str, stream: str, file: Path
) -> None:
    file.write_bytes('{"id":  1}\n\n \t\n {"id": "é"} \r\n[2]\n"last"'.encode())
    said = publish(stream, file, "--type", "created", "--header", "tenant=a=b", url=admin_url)
    assert said == Said(0, f"4 entries published to {stream}\n", "")
    found = fields(client, stream)
    assert [entry[b"data"] for entry in found] == [b'{"id":  1}', ' {"id": "é"} '.encode(), b"[2]", b'"last"']
    assert all(entry.items() >= {(b"type", b"created"), (b"tenant", b"a=b")} for entry in found)
    assert not any(b"content-type" in entry for entry in found)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (b'{"id": ', "Input data was truncated"),
        (b"{'id': 17}", "JSON is malformed"),
        (b'{"id": 17} {"id": 18}', "JSON is malformed"),
        (b'"\xff"', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "a byte order mark"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_is_no_json_stops_it_before_that_line_is_sent(
    client: Redis, admin_url: str, stream: str, file: Path, wrong: bytes, why: str
) -> None:
    file.write_bytes(b"\n" + events(*range(16)) + wrong + b"\n" + events(17))
    said = publish(stream, file, url=admin_url)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"Error: line 18 of {file} is no JSON: ")
    assert why in said.err
    assert said.err.endswith(
        "16 entries published, 0 unknown; mend it and go on with --skip-lines 17, or leave it out with "
        "--skip-lines 18\n"
    )
    assert ids(client, stream) == list(range(16))
    assert publish(stream, file, "--skip-lines", "18", url=admin_url).code == 0
    assert ids(client, stream) == [*range(16), 17]


def test_a_limit_says_where_to_go_on(client: Redis, admin_url: str, stream: str, file: Path) -> None:
    file.write_bytes(events(0) + b"\n" + events(*range(1, 1_300)))
    said = publish(stream, file, "--limit", "1200", url=admin_url)
    assert said.out == f"1 200 entries published to {stream}; --skip-lines 1201 goes on with line 1202\n"
    said = publish(stream, file, "--limit", "1200", "--skip-lines", "1201", url=admin_url)
    assert said.out == f"100 entries published to {stream}\n"
    assert ids(client, stream) == list(range(1_300))


def test_a_rate_is_kept_evenly(client: Redis, admin_url: str, stream: str, file: Path) -> None:
    file.write_bytes(events(*range(60)))
    assert publish(stream, file, "--rate", "100", url=admin_url).code == 0
    found: Any = client.xrange(stream)
    times = [int(id.partition(b"-")[0]) for id, _ in found]
    assert len(times) == 60
    assert times[-1] - times[0] > 200  # ms; 500 if nothing was late, and what is late is not made up for
    for first in times:  # two batches of a tenth of a second at most, of which one was late
        assert sum(first <= time < first + 50 for time in times) <= 20


def test_lines_of_a_pipe_are_published_as_they_come(client: Redis, admin_url: str, stream: str) -> None:
    with piped(stream, url=admin_url) as program:
        for number in range(3):
            program.write(events(number))
            wait_until_sync(lambda: client.xlen(stream) == number + 1, 20)  # noqa: B023  (called at once)
        program.write(b'{"id": 3}')  # the end of the input ends it
        out, err = program.process.communicate(timeout=20)
    assert (program.process.returncode, out.decode(), err) == (0, f"4 entries published to {stream}\n", b"")
    assert ids(client, stream) == [0, 1, 2, 3]


def test_ctrl_c_tells_how_far_it_came(client: Redis, admin_url: str, stream: str) -> None:
    with piped(stream, "--skip-lines", "1", url=admin_url) as program:
        program.write(b"skipped\n" + events(1, 2))
        wait_until_sync(lambda: client.xlen(stream) == 2, 20)
        program.process.send_signal(signal.SIGINT)
        code, said = program.ended()
    assert code == 130
    assert said == "interrupted: 2 entries published, 0 unknown; --skip-lines 3 goes on with line 4\n"


def test_ctrl_c_while_redis_does_not_answer_tells_what_nobody_knows(
    client: Redis, proxy: FaultProxy, stream: str
) -> None:
    proxy.black_hole(command="XADD", towards="client")
    with piped(stream, url=proxy.url) as program:
        program.write(events(0))
        wait_until_sync(lambda: client.xlen(stream) == 1, 20)
        program.process.send_signal(signal.SIGINT)
        code, said = program.ended()
    assert code == 130
    assert said == (
        "interrupted: 0 entries published, 1 unknown; --skip-lines 0 goes on with line 1, which may write some twice\n"
    )


def test_what_is_answered_after_ctrl_c_is_no_doubt(client: Redis, proxy: FaultProxy, stream: str) -> None:
    hole = proxy.black_hole(command="XADD", towards="client")
    with piped(stream, url=proxy.url) as program:
        program.write(events(0))
        wait_until_sync(lambda: client.xlen(stream) == 1, 20)
        program.process.send_signal(signal.SIGINT)
        hole.heal()
        code, said = program.ended()
    assert (code, said) == (130, "interrupted: 1 entry published, 0 unknown; --skip-lines 1 goes on with line 2\n")


class Halfway:
    """A publisher whose server takes the first two of a batch and the fourth, and refuses the rest."""

    written = Written()

    async def publish(self, stream: str, body: Any, **_: Any) -> str:
        raise AssertionError("a file is published in batches")

    async def publish_many(self, stream: str, bodies: Any, **_: Any) -> int:
        raise PublishFailed("out of memory", published=3, unknown=0, leading=2)

    async def close(self) -> None: ...


class Silent(Halfway):
    """One that does not answer and cannot be closed either, at which the user presses Ctrl-C twice."""

    async def publish_many(self, stream: str, bodies: Any, **_: Any) -> int:
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()
        return 0

    async def close(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_the_second_ctrl_c_ends_it_at_once_and_what_was_on_its_way_is_unknown(
    stream: str, file: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(events(0))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert publish_here(stream, file, Silent()) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == (
        "interrupted: 0 entries published, 1 unknown; --skip-lines 0 goes on with line 1, which may write some twice\n"
    )
    assert not caplog.records


def test_a_connection_that_is_lost_leaves_word_of_where_to_go_on(
    client: Redis, proxy: FaultProxy, stream: str, file: Path
) -> None:
    file.write_bytes(events(*range(1_200)))
    proxy.lose_reply("XADD", skip=700)
    said = publish(stream, file, url=proxy.url)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"Error: publishing to '{stream}': ")
    assert said.err.endswith(
        "500 entries published, 500 unknown; --skip-lines 500 goes on with line 501, which may write some twice\n"
    )
    assert publish(stream, file, "--skip-lines", "500", url=proxy.url).code == 0
    assert set(ids(client, stream)) == set(range(1_200))


@on_all_servers
def test_what_redis_refuses_is_not_published(own_server: Server, stream: str, file: Path) -> None:
    file.write_bytes(events(*range(3)))
    own_server.ask("CONFIG", "SET", "maxmemory", "1")
    said = publish(stream, file, url=own_server.url)
    assert said.code == 1
    assert "memory" in said.err
    assert said.err.endswith("0 entries published, 0 unknown; --skip-lines 0 goes on with line 1\n")


def test_where_something_behind_the_gap_was_written_it_goes_on_at_the_gap(
    stream: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(events(0) + b"\n" + events(*range(1, 9)))
    assert publish_here(stream, file, Halfway()) == 1
    assert capsys.readouterr().err == (
        "Error: out of memory\n3 entries published, 0 unknown; --skip-lines 3 goes on with line 4, which may write "
        "some twice\n"
    )


def test_a_bar_shows_how_far_it_is_and_a_count_where_the_end_is_unknown(
    admin_url: str, stream: str, file: Path
) -> None:
    file.write_bytes(events(*range(2_000)))
    words = command("publish", stream, "--file", str(file), url=admin_url, role="publisher")
    with Terminal(*words, columns=120) as terminal:
        assert terminal.wait() == 0
        assert f"publishing to {stream}  [####" in terminal.text
        assert "100%  2 000 entries" in terminal.text
        assert terminal.display.strange == []
    words = command("publish", stream, "--file", "-", url=admin_url, role="publisher")
    with Terminal("sh", "-c", 'cat "$0" | "$@"', str(file), *words, columns=120) as terminal:
        assert terminal.wait() == 0
        assert f"publishing to {stream}  2 000 entries" in terminal.text
        assert "%" not in terminal.text


def test_lines_can_be_typed(client: Redis, admin_url: str, stream: str) -> None:
    with Terminal(*command("publish", stream, "--file", "-", url=admin_url, role="publisher")) as terminal:
        terminal.press('{"id": 0}\r')
        wait_until_sync(lambda: client.xlen(stream) == 1, 20)
        terminal.press("\x04")  # Ctrl-D
        assert terminal.wait() == 0
        assert f"1 entry published to {stream}" in terminal.text
        assert "publishing" not in terminal.text


@pytest.mark.parametrize(
    ("make", "why"),
    [(lambda path: None, "No such file or directory"), (lambda path: path.mkdir(), "Is a directory")],
    ids=["nothing", "a folder"],
)
def test_a_file_that_cannot_be_opened_is_wrong_usage(
    admin_url: str, stream: str, file: Path, make: Callable[[Path], None], why: str
) -> None:
    make(file)
    assert publish(stream, file, url=admin_url) == Said(2, "", f"Error: --file {file}: {why}\n")


def test_a_file_with_a_hostile_name_does_nothing_to_the_terminal(admin_url: str, stream: str, tmp_path: Path) -> None:
    name = "".join(char for char in ALL if char not in "/\0").encode(errors="replace") + b"\xff"
    for at in range(0, len(name), 200):
        path = os.path.join(os.fsencode(tmp_path), name[at : at + 200])
        with open(path, "wb") as file:
            file.write(b"{")
        said = publish(stream, os.fsdecode(path), url=admin_url)
        assert (said.code, said.err.count("\n")) == (1, 2)
        assert is_harmless(said.err, "\n")
        os.remove(path)
        said = publish(stream, os.fsdecode(path), url=admin_url)
        assert (said.code, said.err.count("\n")) == (2, 1)
        assert is_harmless(said.err, "\n")


def test_what_is_said_outright_goes_before_a_file_that_is_a_default(
    client: Redis, admin_url: str, stream: str, file: Path
) -> None:
    defaults: dict[str, Any] = {"STREAMWORKER_FILE": str(file), "STREAMWORKER_RATE": "1", "STREAMWORKER_LIMIT": "1"}
    file.write_bytes(events(1, 2))
    assert call("publish", stream, '{"id": 0}', url=admin_url, role="publisher", **defaults).code == 0
    assert call("publish", stream, url=admin_url, role="publisher", **defaults).code == 0
    assert ids(client, stream) == [0, 1]
