"""Log lines: what they say to whom, that nothing in them can forge, break or block, and how repetition is held back."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamworker import logs
from streamworker.cli.logging import LineHandler, formatter
from streamworker.cli.outlet import Outlet
from streamworker.describe import printable
from streamworker.logs import Outage, Suppressor, log, traceback_of

texts = st.text(st.characters(codec=None))  # lone surrogates and control characters included
values = st.one_of(
    texts,
    st.integers(),
    st.floats(),
    st.binary(),
    st.none(),
    st.booleans(),
    st.lists(texts, max_size=3),
    st.dictionaries(texts, texts, max_size=3),
)


@dataclass
class Handled:
    stream: str = "orders"
    group: str = "billing"
    id: str = "1-0"
    deliveries: int = 2
    handler: str = "charge"


class Unshowable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Collector(logging.Handler):
    """Keeps the lines that a formatter makes, as they would be written."""

    def __init__(self, *formatters: logging.Formatter) -> None:
        super().__init__()
        self.formatters = formatters
        self.lines: list[list[str]] = [[] for _ in formatters]
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        for one, lines in zip(self.formatters, self.lines, strict=True):
            lines.append(one.format(record))


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Sees every record; formatted as console, JSON and plain stdlib text."""
    root = logging.getLogger()
    collector = Collector(formatter(console=True), formatter(console=False), logging.Formatter())
    before = root.level
    root.addHandler(collector)
    root.setLevel(logging.DEBUG)
    yield collector
    root.removeHandler(collector)
    root.setLevel(before)


def test_a_program_with_plain_logging_sees_the_event_and_its_values(collector: Collector) -> None:
    log.info("worker.started", worker="a-1", streams=["orders"], note="two words", quote='a"b')
    assert collector.lines[2] == ['worker.started worker=a-1 streams="[\'orders\']" note="two words" quote="a\\"b"']
    assert collector.records[0].levelno == logging.INFO
    assert collector.records[0].name == "streamworker"


def test_the_json_line_holds_the_values_as_they_are(collector: Collector) -> None:
    log.warning("message.retry", deliveries=2, retry_in=1.5, streams=["a", "b"], name="x", args="y", message="z")
    line = json.loads(collector.lines[1][0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert line == {
        "level": "warning",
        "message": "message.retry",
        "logger": "streamworker",
        "deliveries": 2,
        "retry_in": 1.5,
        "streams": ["a", "b"],
        "name": "x",
        "args": "y",
    }


def test_nothing_is_printed_where_nobody_configured_logging(tmp_path: Path) -> None:
    code = "from streamworker.logs import log; log.info('worker.started'); log.debug('x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_what_is_below_the_level_is_not_even_made_into_text(collector: Collector) -> None:
    logging.getLogger("streamworker").setLevel(logging.WARNING)
    try:
        log.info("nothing", value=Unshowable())
    finally:
        logging.getLogger("streamworker").setLevel(logging.NOTSET)
    assert collector.records == []


def test_every_record_inside_a_handler_says_which_message_it_is_about(collector: Collector) -> None:
    token = logs.current.set(Handled())
    try:
        logging.getLogger("the.users").error("failed for %s", "me", extra={"order": 7})
        log.info("message.retry", stream="of-the-event")
    finally:
        logs.current.reset(token)
    logging.getLogger("the.users").error("outside")
    inside, ours, outside = (json.loads(line) for line in collector.lines[1])
    assert inside["message"] == "failed for me"
    assert inside["order"] == 7
    about = {"stream": "orders", "group": "billing", "message_id": "1-0", "deliveries": 2, "handler": "charge"}
    assert about.items() <= inside.items()
    assert ours == {**ours, **about, "stream": "of-the-event"}
    assert not about.keys() & outside.keys()
    assert "message_id=1-0" in collector.lines[0][0]


@given(event=texts, name=texts, value=values)
def test_no_text_can_forge_a_line_or_move_a_terminal_or_break_the_writing(event: str, name: str, value: object) -> None:
    root, collector = logging.getLogger(), Collector(formatter(console=True), formatter(console=False))
    root.addHandler(collector)
    try:
        log.error(event, **{f"k{name}": value})
        logging.getLogger("users").error("%s", value, extra={f"k{name}": value})
        logging.getLogger("users").error(event)
    finally:
        root.removeHandler(collector)
    for line in (line for lines in collector.lines for line in lines):
        assert line.isprintable(), ascii(line)
        line.encode()  # no surrogate is left
    for line in collector.lines[1]:
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


@given(text=texts)
def test_the_text_of_an_exception_cannot_pass_for_a_record(text: str) -> None:
    root, collector = logging.getLogger(), Collector(formatter(console=True), formatter(console=False))
    root.addHandler(collector)
    try:
        try:
            raise ValueError(text)
        except ValueError:
            log.exception("message.failed")
            logging.getLogger("users").exception("mine")
    finally:
        root.removeHandler(collector)
    for entry in collector.lines[0]:
        _, *rest = entry.split("\n")
        assert any("ValueError" in line for line in rest)
        for line in rest:
            assert line.startswith("    ")
            assert line.isprintable()
    for entry in collector.lines[1]:
        assert entry.isascii()
        assert entry.isprintable()
        assert "ValueError" in json.loads(entry)["exception"]


@pytest.mark.parametrize(
    "value",
    [Unshowable(), [Unshowable()], {"a": Unshowable()}, 10**5000, float("nan")],
    ids=["exception", "list", "dict", "integer", "nan"],
)
def test_a_value_that_cannot_be_shown_fails_nobody(collector: Collector, value: object) -> None:
    log.error("message.failed", value=value)
    assert "value" in json.loads(collector.lines[1][0])


def test_a_level_of_the_users_is_a_text_like_any_other(collector: Collector) -> None:
    logging.addLevelName(27, "NO\x1bTE")
    logging.getLogger("users").log(27, "mine")
    logging.getLogger("users").log(28, "mine")
    assert all(line.isprintable() for lines in collector.lines[:2] for line in lines)


def test_a_long_value_is_cut(collector: Collector) -> None:
    log.error("message.failed", value="x" * 10_000_000, text="\x1b" * 10_000_000, raised=ValueError("y" * 10_000_000))
    assert len(collector.lines[1][0]) < 4 * logs.LIMIT
    assert "(10000000 characters)" in collector.lines[1][0]


@pytest.mark.parametrize("at", range(logs.LIMIT - 40, logs.LIMIT + 5))
def test_a_login_in_a_url_is_masked_also_where_a_text_is_cut(at: int) -> None:
    assert "hunter2" not in logs.clean("x" * at + "redis://hunter2:hunter2/hunter2@host/0 refused")
    assert "hunter2" not in printable(
        "x" * (at - logs.LIMIT + 1000) + " redis://hunter2:hunter2@host/0" + "y" * 2000, 1000
    )
    assert "hunter2" not in printable(
        "y" * 2000 + " redis://hunter2:hunter2@host/0" + "x" * (at - logs.LIMIT + 500), 1000
    )


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://user:pa/ss@host:1/0 refused", "redis://…@host:1/0 refused"),
        ("url='rediss://:secret@host', lease=-1", "url='rediss://…@host', lease=-1"),
        ("postgres://me:secret@db/x and amqp://a:b@c", "postgres://…@db/x and amqp://…@c"),
        ("https://example.org/@somebody?a=b@c", "https://example.org/@somebody?a=b@c"),
        ("redis://host:1/0 me@home", "redis://host:1/0 me@home"),
    ],
)
def test_only_logins_are_masked(text: str, masked: str) -> None:
    assert logs.without_logins(text) == masked
    assert logs.clean(logs.clean(text)) == logs.clean(text)


def test_masking_takes_no_time_to_speak_of() -> None:
    begin = time.process_time()
    for text in ("redis://" * 500_000, "://a" * 500_000, "redis://" + "a" * 4_000_000):
        logs.clean(text)
        printable(text, 1000)
    assert time.process_time() - begin < 2


def test_a_traceback_is_capped_and_shows_no_local_variables() -> None:
    def deep(n: int, secret: str) -> None:
        if n == 0:
            raise ValueError("the end " + "x" * 50_000_000)
        deep(n - 1, secret)

    with pytest.raises(ValueError, match="the end") as caught:
        deep(500, "hunter2")
    text = traceback_of(caught.value)
    assert len(text) < 20_000
    assert "ValueError: the end" in text
    assert "hunter2" not in text


def test_a_traceback_that_cannot_be_made_is_no_failure() -> None:
    assert "Unshowable" in traceback_of(Unshowable())


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(("template", "arguments"), [("%d", ("x",)), ("%s", (Broken(),)), (Broken(), ())])
def test_a_users_record_that_cannot_be_formatted_leaves_a_line_instead_of_an_error(
    template: Any, arguments: tuple[object, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    outlet = Outlet()
    handler = LineHandler(outlet)
    handler.setFormatter(formatter(console=False))
    logger = logging.Logger("users")
    logger.addHandler(handler)
    logger.error(template, *arguments)
    assert outlet.flush()
    line = json.loads(capfd.readouterr().err)
    assert "test_logs.py" in line["message"]
    assert "cannot be formatted" in line["message"]


def outlet_of_a_pipe(room: int = 10_000) -> tuple[logging.Logger, Outlet, int]:
    reading, writing = os.pipe()
    outlet = Outlet(writing, room=room)
    handler = LineHandler(outlet)
    handler.setFormatter(formatter(console=False))
    logger = logging.Logger("users")
    logger.addHandler(handler)
    return logger, outlet, reading


def test_a_pipe_that_nobody_reads_blocks_nobody_and_what_was_left_out_is_counted_later() -> None:
    logger, outlet, reading = outlet_of_a_pipe()
    written = 0
    while outlet.flush(0.05):  # until the pipe is full
        for _ in range(10):
            logger.error("x" * 1000)
        written += 10
    for _ in range(100):
        logger.error("x" * 1000)

    messages: list[str] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as pipe:
            for line in pipe:
                messages.append(json.loads(line)["message"])
                if messages[-1] == "the last":
                    return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert outlet.flush(10)
    logger.error("the last")
    reader.join(10)
    left_out = [int(message.split()[0]) for message in messages if "left out" in message]
    assert left_out
    assert messages.count("x" * 1000) + sum(left_out) == written + 100


def test_a_pipe_that_is_closed_fails_nobody() -> None:
    logger, outlet, reading = outlet_of_a_pipe()
    os.close(reading)
    for _ in range(100):
        logger.error("x" * 1000)
    assert outlet.flush()


def test_a_forked_process_logs_too() -> None:
    code = "\n".join(  # in a process of its own: forking this one, with its threads, is warned about
        [
            "import os, logging",
            "from streamworker.cli.logging import LineHandler, formatter",
            "from streamworker.cli.outlet import Outlet",
            "outlet = Outlet(2); handler = LineHandler(outlet); handler.setFormatter(formatter(console=False))",
            "logging.getLogger().addHandler(handler)",
            "pid = os.fork()",
            "logging.error('child' if pid == 0 else 'parent')",
            "outlet.flush()",
            "os.waitpid(pid, 0) if pid else os._exit(0)",
        ]
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, check=True, timeout=30)
    assert sorted(json.loads(line)["message"] for line in done.stderr.splitlines()) == ["child", "parent"]


CONFIGURE = """
import logging, sys
{before}
from streamworker.cli.logging import configure
print(configure("{form}", "info"))
from streamworker.logs import log
log.info("worker.started", worker="w")
import structlog
structlog.get_logger().info("users", key=1)
"""


def configured(form: str, before: str = "") -> tuple[str, str]:
    code = CONFIGURE.format(form=form, before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30, text=True)
    return done.stdout, done.stderr


def test_a_pipe_gets_json_and_the_standard_output_stays_the_users() -> None:
    out, err = configured("auto")
    assert out == "True\n"
    first, second = (json.loads(line) for line in err.splitlines())
    assert (first["message"], first["worker"]) == ("worker.started", "w")
    assert (second["message"], second["key"]) == ("users", 1)


def test_the_console_format_can_be_had_without_a_terminal_and_has_no_colors_then() -> None:
    _, err = configured("console")
    assert "worker.started" in err
    assert "worker=w" in err
    assert "\x1b" not in err


def test_an_app_that_has_configured_logging_is_left_alone() -> None:
    out, err = configured("auto", "logging.basicConfig(format='mine: %(message)s', level='INFO')")
    assert out.startswith("False\n")
    assert err == "mine: worker.started worker=w\n"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_repeated_line_comes_once_per_interval_with_the_count_of_what_was_left_out() -> None:
    clock = Clock()
    suppressor = Suppressor(2.0, clock=clock)
    assert [suppressor.left_out("a") for _ in range(4)] == [0, None, None, None]
    assert suppressor.left_out("b") == 0
    clock.now = 2.0
    assert suppressor.left_out("a") == 3
    clock.now = 4.0
    assert suppressor.left_out("a") == 0


def test_the_memory_of_what_was_left_out_is_bounded() -> None:
    suppressor = Suppressor(2.0, most=10, clock=Clock())
    for key in range(1000):
        assert suppressor.left_out(key) == 0
    assert len(suppressor._keys) == 10
    assert suppressor.left_out(999) is None


def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends(collector: Collector) -> None:
    outage = Outage("redis.unavailable", "redis.available", server="a")
    outage.ended()
    for _ in range(3):
        outage.began("connection refused")
    for _ in range(3):
        outage.ended()
    begun, ended = (record.getMessage() for record in collector.records)
    assert begun == 'redis.unavailable reason="connection refused" server=a'
    assert re.fullmatch(r"redis\.available seconds=\d+\.\d server=a", ended)
