"""Canaries in bodies, headers, field names, users and passwords: whatever goes wrong, nobody is told of them."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from redis.asyncio import Redis

from streamworker import App, Backoff, Message, PublishError
from streamworker.endpoint import endpoint
from streamworker.errors import StreamworkerError
from streamworker.launch import RunOptions, run_worker
from streamworker.redisbroker.broker import RedisBroker
from tests.conftest import ProgramOf, ServerOf
from tests.faults.canaries import LOGIN, MARK, PASSWORD, PAYLOAD, USER, Told, listening
from tests.faults.proxy import FaultProxy
from tests.programs import Program, streamworker_command
from tests.running import Watched, impatience, working
from tests.servers import Server
from tests.waiting import wait_until, wait_until_sync

# The server says whose rights do not suffice; nobody else names the user.
NAMED_BY_SERVER = f"User {USER} has no permissions"


class Order(msgspec.Struct):
    id: int
    note: str = ""


@pytest.fixture
def told() -> Iterator[Told]:
    with listening() as told:
        yield told
    assert told.lines, "nothing was logged, so nothing was tested"
    assert MARK not in told.text


@pytest.fixture
def server(server_kind: str, make_server: ServerOf) -> Server:
    """With a user whose name and password are canaries."""
    server = make_server(server_kind)
    allow(server, "~*", "+@all")
    return server


@pytest.fixture
async def admin(server: Server) -> AsyncIterator[Redis]:
    async with Redis(port=server.port, protocol=2) as admin:
        yield admin


def allow(server: Server, *rules: str) -> None:
    answer = server.ask("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *rules)
    assert answer == b"+OK\r\n", answer


def url_of(server: Server) -> str:
    return f"redis://{LOGIN}127.0.0.1:{server.port}/0"


def checked(error: BaseException) -> str:
    """Its text, after a look at everything that a program could print of it."""
    shown = "".join([str(error), repr(error), *traceback.format_exception(error)])
    assert MARK not in shown.replace(NAMED_BY_SERVER, "")
    return str(error)


async def test_no_way_in_which_a_message_fails_tells_of_its_payload(
    server: Server, admin: Redis, stream: str, told: Told
) -> None:
    app = App("app", max_body=10_000)
    quick = Backoff(0.01, 1, jitter=0)
    runs: list[str] = []

    def quotes(failure: Any) -> None:
        raise RuntimeError(f"on_failure cannot store {failure.fields}")

    @app.on(stream, type="raises", max_deliveries=2, retry=quick)
    async def raises(body: dict[str, str], message: Message) -> None:
        runs.append("raises")
        raise ValueError(f"cannot charge {body} of {message.headers}") from KeyError(PAYLOAD)

    @app.on(stream, type="exits", max_deliveries=1)
    def exits(body: dict[str, str]) -> None:
        raise SystemExit(f"exits with {body}")

    @app.on(stream, type="group", max_deliveries=1, on_failure=quotes)
    async def group(body: dict[str, str]) -> None:
        raise ExceptionGroup(f"both {body}", [ValueError(PAYLOAD), TypeError(PAYLOAD)])

    def talks(failure: Any) -> Any:
        return f"nonsense about {failure}"

    @app.on(stream, type="late", max_deliveries=1, timeout=0.05, on_failure=talks)
    async def late(body: dict[str, str]) -> None:
        await asyncio.sleep(60)

    @app.on(stream, type="order", on_failure=quotes)
    async def order(body: Order) -> None: ...

    ways: list[tuple[str, str]] = [("raises", "{}"), ("exits", "{}"), ("group", "{}"), ("late", "{}"), ("new", "{}")]
    ways += [("order", PAYLOAD), ("order", f'{{"id":"{PAYLOAD}"}}'), ("order", f'{{"id":1,"note":"{PAYLOAD * 500}"}}')]
    watched = Watched(admin, stream, "app")
    async with working(app, url=url_of(server)):
        for kind, body in ways:
            data = f'{{"card":"{PAYLOAD}"}}' if body == "{}" else body
            await watched.add("data", data, "type", kind, "tenant", PAYLOAD, PAYLOAD, "a field's name")
        await watched.rests(30)
    letters = await watched.letters()
    assert len(letters) == len(ways)
    for letter in letters:
        said = {name: value for name, value in letter.facts.items() if name not in ("sw-error", "sw-traceback")}
        assert MARK not in str(said)
        assert PAYLOAD in str(letter.fields)
    quoted = [letter for letter in letters if PAYLOAD in letter.facts["sw-error"]]
    assert {letter.facts["sw-handler"].rpartition(".")[2] for letter in quoted} == {"raises", "exits", "group"}
    assert told.saw("message.retry", "message.dead_lettered", "on_failure.failed")


async def test_no_way_in_which_publishing_fails_tells_of_payload_or_password(
    server: Server, admin: Redis, stream: str
) -> None:
    async def fails(app: App, name: str = stream) -> str:
        with pytest.raises(PublishError) as one:
            await app.publish(name, PAYLOAD, type=PAYLOAD, headers={PAYLOAD: PAYLOAD})
        with pytest.raises(PublishError) as many:
            await app.publish_many(name, [PAYLOAD] * 3, headers={PAYLOAD: PAYLOAD})
        return checked(one.value) + checked(many.value)

    with FaultProxy(server.port) as proxy, listening() as told:
        async with App("app", url=f"redis://{LOGIN}127.0.0.1:{proxy.port}") as app:
            await admin.set("text", "x")
            assert "WRONGTYPE" in await fails(app, "text")
            await admin.config_set("maxmemory", 1)
            assert "OOM" in await fails(app)
            await admin.config_set("maxmemory", 0)
            allow(server, "~*", "+ping")
            assert "xadd" in await fails(app)
            allow(server, "~*", "+@all")
            await admin.replicaof("127.0.0.1", "1")
            assert "READONLY" in await fails(app)
            await admin.replicaof("NO", "ONE")
            with proxy.lose_reply("XADD", times=None):
                assert "may have been written" in await fails(app)
            server.stop()
            await fails(app)
    assert MARK not in told.text.replace(NAMED_BY_SERVER, "")


@pytest.mark.parametrize("wrong", ["password", "port", "right", "TLS", "url", "sentinel", "cluster"])
async def test_a_worker_that_cannot_start_tells_no_password(
    wrong: str, server: Server, admin: Redis, stream: str
) -> None:
    app = App("app")

    @app.on(stream)
    async def handle(body: str) -> None: ...

    url = url_of(server)
    if wrong == "password":
        url = url.replace("pass%2F", "pass%2Fno")
    elif wrong == "port":
        url = f"redis://{LOGIN}127.0.0.1:1/0"
    elif wrong == "right":
        allow(server, "~*", "+ping")
    elif wrong == "TLS":
        url = url.replace("redis:", "rediss:")
    elif wrong == "sentinel":
        url = f"sentinel://{LOGIN}127.0.0.1:1,127.0.0.1:2/main/0?sentinel_username={USER}&sentinel_password={PASSWORD}"
    elif wrong == "cluster":
        url = f"cluster://{LOGIN}127.0.0.1:1,127.0.0.1:2"
    else:
        url = url.replace("%2F", "/")
    stop = asyncio.Event()
    with listening() as told, impatience():
        work = asyncio.create_task(_choose_and_work(app, url, stop))
        await wait_until(lambda: work.done() or "heartbeat.refused" in told.events)
        stop.set()
        await asyncio.wait([work])
    error = work.exception()
    assert (error is None) is (wrong == "right")
    if error is not None:
        assert isinstance(error, StreamworkerError)
        assert USER not in checked(error)
    assert MARK not in told.text.replace(NAMED_BY_SERVER, "")


async def _choose_and_work(app: App, url: str, stop: asyncio.Event) -> None:
    with endpoint(url) as where:
        assert MARK not in f"{where} {where!r} {app!r} {RedisBroker(where.url)!r}"
        await run_worker([app], where.url, RunOptions(connect_timeout=0.3), stop, lambda: None)


SOURCE = """
import contextlib, asyncio
from streamworker import App
app = App("app")

@app.on({stream!r}, max_deliveries=1)
async def handle(body: dict) -> None:
    journal("handled")
    raise ValueError(f"cannot charge {{body}}")
"""
CRASHES = """
@app.lifespan
@contextlib.asynccontextmanager
async def life():
    raise ValueError("cannot connect to " + os.environ["STREAMWORKER_REDIS_URL"])
    yield
"""


def everything_of(program: Program) -> str:
    """What it said, what its processes can be seen with, and the files it keeps."""
    kept = [path for path in program.folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".out", ".err")]
    files = [path.read_bytes() for path in kept if ".streamworker" in path.parts or "health" in path.parts]
    arguments = [_arguments(pid) for pid in (program.pid, *program.children)]
    return program.out + program.log + b"\n".join([*files, *arguments]).decode(errors="replace")


def _arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_process_shows_the_password_of_its_variable_or_a_payload(
    workers: str, log_format: str, server: Server, program: ProgramOf, stream: str
) -> None:
    words = ("--workers", workers, "--log-format", log_format, "--log-level", "debug")
    worker = program(SOURCE.format(stream=stream), *words, env={"STREAMWORKER_REDIS_URL": url_of(server)})
    server.ask("XADD", stream, "*", "data", f'{{"card":"{PAYLOAD}"}}')
    wait_until_sync(lambda: worker.journal and "dead_lettered" in worker.log, 30, lambda: worker.log)
    assert MARK not in everything_of(worker)
    server.kill()
    wait_until_sync(lambda: "redis.unavailable" in worker.log, 20, lambda: worker.log)
    worker.sigterm()
    worker.wait(40)
    assert MARK not in everything_of(worker)


def test_a_crash_shows_no_password(server: Server, program: ProgramOf, stream: str) -> None:
    source = SOURCE.format(stream=stream) + CRASHES
    worker = program(source, env={"STREAMWORKER_REDIS_URL": url_of(server)})
    assert worker.wait(30) == 1
    assert "cannot connect to redis://" in worker.log
    assert MARK not in everything_of(worker)


def test_a_module_that_fails_beside_its_url_shows_no_password(program: ProgramOf) -> None:
    worker = program(f"from streamworker import App\napp = App('', url='redis://{LOGIN}127.0.0.1:1/0')\n")
    assert worker.wait(30) == 2
    assert "redis://" in worker.log
    assert MARK not in everything_of(worker)


def test_a_password_among_the_arguments_is_warned_of_and_goes_to_no_child(
    server: Server, program: ProgramOf, stream: str
) -> None:
    parent = program(SOURCE.format(stream=stream), "--workers", "2", url=url_of(server))
    wait_until_sync(lambda: parent.log.count("worker.started") == 2, 30, lambda: parent.log)
    assert parent.log.count("redis.password_in_arguments") == 1
    assert MARK not in parent.log + "".join(_arguments(pid).decode() for pid in parent.children)


def test_a_file_holds_the_url_that_no_argument_shows(server: Server, program: ProgramOf, stream: str) -> None:
    source = SOURCE.format(stream=stream)
    folder = program(source, command=("--version",)).folder
    (folder / "url").write_text(url_of(server) + "\n")
    parent = program(None, "--workers", "2", "--redis-file", str(folder / "url"))
    wait_until_sync(lambda: parent.log.count("worker.started") == 2, 30, lambda: parent.log)
    assert f'"redis": "redis://127.0.0.1:{server.port}/0"' in parent.log
    assert MARK not in everything_of(parent)
    published = program(None, stream, "{}", "--redis-file", str(folder / "url"), command=("publish",))
    assert published.wait() == 0, published.log
    (folder / "url").write_text(f"{LOGIN}127.0.0.1")
    wrong = program(None, "--redis-file", str(folder / "url"))
    assert wrong.wait() == 2
    assert MARK not in wrong.log


def told_by(*words: str, **variables: str) -> tuple[int, str]:
    command = [str(streamworker_command()), *words]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, timeout=60, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


async def test_no_command_tells_of_the_password_or_the_payload_when_it_fails(
    server: Server, admin: Redis, tmp_path: Path
) -> None:
    url = url_of(server)
    await admin.set("text", "x")
    publish = ("publish", "orders", PAYLOAD, "--type", PAYLOAD, "--header", f"{PAYLOAD}={PAYLOAD}")
    nobody = f"redis://{LOGIN}127.0.0.1:1/0"
    runs: list[tuple[int, tuple[str, ...], str]] = [
        (0, publish, url),
        (1, ("publish", "text", PAYLOAD), url),
        (3, publish, nobody),
        (3, publish, url.replace("pass%2F", "pass%2Fno")),
        (2, publish, url.replace("%2F", "/")),
        (2, publish, LOGIN),
        (2, publish, url + "?nonsense=1"),
        (2, publish, url + "?socket_timeout=x"),
        (2, (*publish, "--header", PAYLOAD), url),
        (2, (*publish, "--header", f"data={PAYLOAD}"), url),
        (3, publish, url.replace("redis:", "rediss:")),
        (2, ("run", url), url),
        (0, ("run", "--help"), url),
        (0, ("publish", "--help"), url),
        (1, ("healthcheck", "--health-dir", str(tmp_path)), url),
    ]
    for code, words, where in runs:
        found, text = await asyncio.to_thread(told_by, *words, STREAMWORKER_REDIS_URL=where)
        assert MARK not in text
        assert found == code, (words[:2], text)
        if code != 0:
            assert text.strip()


@asynccontextmanager
async def served_badly(reply: bytes) -> AsyncIterator[int]:
    """A port on which everything is answered with ``reply``."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            writer.write(reply)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()[1]


async def test_a_certificate_that_nobody_vouches_for_is_told_without_the_password(server: Server, stream: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with FaultProxy(server.port, tls=context) as proxy:
        app = App("app", url=f"rediss://{LOGIN}127.0.0.1:{proxy.port}")
        with pytest.raises(StreamworkerError, match="certificate") as caught:
            async with app:
                await app.publish(stream, PAYLOAD)
    checked(caught.value)


@pytest.mark.parametrize("server_kind", ["valkey-9.1"])
async def test_a_server_that_quotes_what_it_was_sent_tells_no_payload(server_kind: str, stream: str) -> None:
    quoted = f"-ERR unknown command 'XADD', with args beginning with: '{stream}' '{PAYLOAD}'\r\n".encode()
    async with served_badly(quoted) as port:
        publisher = RedisBroker(f"redis://127.0.0.1:{port}").publisher()
        with pytest.raises(PublishError) as caught:
            await publisher.publish(stream, PAYLOAD)
        await publisher.close()
        assert "unknown command" in checked(caught.value)
