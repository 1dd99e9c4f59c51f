"""Control characters, bidi marks and lone surrogates in everything that others write: none reaches a terminal raw."""

from __future__ import annotations

import io
import json
import logging
import unicodedata
from logging.handlers import BufferingHandler

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from streamworker import logs
from streamworker.cli.logging import formatter
from streamworker.describe import describe_error, printable
from tests.conftest import ProgramOf
from tests.programs import Program
from tests.roles import as_role
from tests.running import Watched
from tests.waiting import wait_until

# C0, DEL and C1; what ends a line for some; what turns the direction of writing; what is invisible; surrogates.
CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
BIDI = list("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
OTHERS = list("\u2028\u2029\u200b\ufeff\ufff9\u2060\xad\U000e0001\U000e007f")
SURROGATES = ["\ud800", "\udbff", "\udc00", "\udfff", "\udc9b"]
HOSTILE = [*CONTROLS, *BIDI, *OTHERS, *SURROGATES]
ALL = "a".join(HOSTILE)  # apart from each other, or two of them would make one character

hostile = st.text(st.one_of(st.sampled_from(HOSTILE), st.characters(codec=None)), min_size=1, max_size=60)


def is_harmless(text: str, lines: str = "") -> bool:
    """Whether a terminal shows it as it is, and any stream can write it."""
    return all(char in lines or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in text)


@pytest.mark.parametrize("char", HOSTILE, ids=ascii)
def test_each_of_them_is_escaped_wherever_it_is_told(char: str) -> None:
    told = _rendered(f"x{char}x", ValueError(f"x{char}x"))
    assert all(is_harmless(line, "\n") for line in told)
    assert is_harmless(printable(f"x{char}x", 100))
    assert all(is_harmless(text, "\n") for text in describe_error(ValueError(f"x{char}x")))


@settings(max_examples=200, deadline=None)
@given(text=hostile, name=hostile)
def test_no_text_of_them_gets_through_or_breaks_the_log(text: str, name: str) -> None:
    made = type("E", (Exception,), {"__str__": lambda _: text})()
    for line in _rendered(text, made, name):
        assert is_harmless(line, "\n")
        io.TextIOWrapper(io.BytesIO(), "utf-8").write(line)
    assert is_harmless(printable(text, 200))
    assert all(is_harmless(told, "\n") for told in describe_error(made))
    assert is_harmless(logs.for_terminal(text), "\n")


def _rendered(text: str, error: Exception, name: str = "value") -> list[str]:
    """Lines of both of the command line's renderers, for ours, for a user's logger and for tracebacks."""
    keep = BufferingHandler(100)
    loggers = [logging.getLogger("streamworker"), logging.getLogger("users")]
    for logger in loggers:
        logger.addHandler(keep)
    try:
        logs.log.warning("message.retry", **{f"k{name}": text}, reason=error, exc_info=error)
        loggers[1].warning("%s", text, extra={f"k{name}": text}, exc_info=error)
        loggers[1].warning(text)
    finally:
        for logger in loggers:
            logger.removeHandler(keep)
    lines = [formatter(console).format(record) for record in keep.buffer for console in (True, False)]
    for line in lines[1::2]:
        json.loads(line)
    return lines


SOURCE = """
import asyncio
from streamworker import App
app = App("app")

@app.on({stream!r}, type="raises", max_deliveries=1)
async def raises(body: str) -> None:
    raise ValueError(body)

@app.on({stream!r}, type="decodes")
async def decodes(body: dict[str, int]) -> None: ...

@app.on({stream!r}, type="exits", max_deliveries=1)
async def exits(body: str) -> None:
    import logging
    logging.getLogger("users").error(body)
    logging.getLogger("users").error("%s", body, exc_info=KeyError(body))
    raise type(body, (Exception,), {{}})(body)

@app.on({stream!r}, type="waits")
async def waits(body: str) -> None:
    journal("waits")
    await asyncio.Event().wait()
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_no_field_of_an_entry_and_no_other_programs_name_reaches_the_terminal_raw(
    log_format: str, redis_url: str, redis: Redis, stream: str, program: ProgramOf
) -> None:
    raw = ALL.encode("utf-8", "surrogatepass")
    watched = Watched(redis, stream, "app")
    words = ("--log-format", log_format, "--log-level", "debug")
    worker = program(SOURCE.format(stream=stream), *words, url=redis_url)
    for kind in ("raises", "decodes", "exits"):
        await watched.add("data", ALL.encode("utf-8", "replace"), "type", kind, raw, raw)
        await watched.add("data", raw, "type", kind, raw, raw)
    await watched.add("data", b"x", "type", raw, raw, raw)
    await watched.add(raw, raw)
    held = await watched.add("data", b"x", "type", "waits")
    await wait_until(lambda: bool(worker.journal), 20, lambda: worker.log)
    # Another program's consumer takes it: the worker says to whom it has lost it.
    await watched.do("XCLAIM", stream, "app", raw, 0, held)
    await wait_until(lambda: "lease.lost" in worker.log, 30, lambda: worker.log)
    await wait_until(lambda: _letters_are(watched, 8), 20, lambda: worker.log)
    worker.sigterm()
    assert await worker.ended() == 0
    for which in ("out", "err"):
        _check(worker, which)
    assert "users" in worker.log
    for letter in await watched.letters():
        for fact, value in letter.facts.items():
            assert is_harmless(value, "\n" if fact == "sw-traceback" else ""), fact


async def _letters_are(watched: Watched, number: int) -> bool:
    return len(await watched.letters()) == number


def _check(worker: Program, which: str) -> None:
    (path,) = worker.folder.glob(f"program-*.{which}")
    text = path.read_bytes().decode("utf-8")  # strictly
    assert is_harmless(text, "\n"), {char for char in text if not is_harmless(char, "\n")}


def test_a_servers_answer_cannot_move_the_terminal_of_a_command(program: ProgramOf, redis_url: str) -> None:
    published = program(None, "\x1b[2J\u202e", "{}", url=as_role(redis_url), command=("publish",))
    assert published.wait() == 0
    again = program(None, "--redis", "x\x1b[2J://\u202e", command=("publish", "orders", "{}"))
    assert again.wait() == 2
    for which in (published, again):
        assert is_harmless(which.out + which.log, "\n")
