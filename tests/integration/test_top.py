"""``streamworker top`` on a real terminal of 80 by 24: what it shows, its keys, and how it leaves the terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from streamworker.cli.picture import LEVELS, View, bars, picture
from streamworker.monitoring.status import Status
from streamworker.monitoring.words import width
from streamworker.redisbroker.keys import Keys
from tests.commands import call, command
from tests.conftest import ServerOf
from tests.faults.test_hostile_texts import ALL
from tests.servers import Server
from tests.terminal import Terminal
from tests.waiting import wait_until_sync

SETTLED = {"1049": False, "25": True, "7": True}  # as a terminal is without us
TAKEN = {"1049": True, "25": False, "7": False}


@pytest.fixture
def server(make_server: ServerOf) -> Server:
    return make_server("valkey-9.1", appendonly=True)


@pytest.fixture
def client(server: Server) -> Iterator[Redis]:
    with Redis(port=server.port, protocol=2) as client:
        yield client


def fill(client: Redis, stream: str, entries: int, dead: int = 0) -> None:
    client.xgroup_create(stream, "readers", "0", mkstream=True)
    more(client, stream, entries)
    for _ in range(dead):
        client.xadd(Keys.of(stream, "readers").dead, {"sw-reason": "no"})


def more(client: Redis, stream: str, entries: int) -> None:
    for _ in range(entries):
        client.xadd(stream, {"data": "x"})


def top(server: Server, *words: str, columns: int = 80, rows: int = 24) -> Terminal:
    words = ("top", "--interval", "0.2", *words)
    return Terminal(*command(*words, url=server.url), columns=columns, rows=rows)


def groups(text: str) -> list[str]:
    """The names in the order in which they are shown."""
    return re.findall(r"^(\S+)/readers ", text, re.MULTILINE)


def is_asked(server: Server) -> bool:
    """Whether somebody has sent the server what it has not read yet."""
    connections = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [words[4].partition(":")[2] for words in connections if words[1].endswith(f":{server.port:04X}")]
    return any(int(received, 16) for received in queues)


def test_a_line_for_each_group_with_its_numbers_and_the_last_looks_at_its_lag(server: Server, client: Redis) -> None:
    fill(client, "orders", 5, dead=2)
    with top(server) as terminal:
        terminal.shows(lambda text: text.count("█") >= 2)
        more(client, "orders", 20)
        text = terminal.shows(lambda text: re.search(r"[▁▂▃]+█", text))
        lines = text.splitlines()
        assert lines[0].startswith("valkey 9.1")
        assert "0 workers" in lines[0]
        assert re.search(r"\d\d:\d\d:\d\d UTC", lines[0])
        assert lines[1].split() == ["GROUP", "LAG", "IN/s", "ACK/s", "PENDING", "DEAD", "DRAINED"]
        row = terminal.shows(lambda text: re.search(r"orders/readers +25 +\S*█ ", text)).splitlines()[2].split()
        assert (row[0], row[1], row[-3], row[-2]) == ("orders/readers", "25", "0", "2")
        assert "workers 0 alive of 0, 0 handlers run" in text
        terminal.shows("! orders/readers stands still: nothing is read")
        assert terminal.display.modes == TAKEN
        terminal.press("q")
        assert terminal.wait() == 0
        assert terminal.display.strange == []
        assert terminal.display.modes == SETTLED
        assert terminal.attributes == terminal.before


def test_q_is_heard_at_once_though_looks_are_far_apart(server: Server, client: Redis) -> None:
    fill(client, "orders", 1)
    with Terminal(*command("top", "--interval", "1000", url=server.url)) as terminal:
        terminal.shows("orders/readers")
        terminal.press("q")
        assert terminal.wait(3) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_the_terminal_is_as_before(server: Server, client: Redis, number: signal.Signals) -> None:
    fill(client, "orders", 1)
    with top(server) as terminal:
        terminal.shows("orders/readers")
        assert terminal.attributes != terminal.before
        if number == signal.SIGINT:
            terminal.press("\x03")  # Ctrl-C, as the terminal hands it on
        else:
            os.kill(terminal.process.pid, number)
        assert terminal.wait() == 128 + number
        assert terminal.display.modes == SETTLED
        assert terminal.attributes == terminal.before
        assert "Traceback" not in terminal.raw.decode()


def test_an_error_leaves_the_terminal_as_before_and_is_told_there(server: Server, client: Redis) -> None:
    fill(client, "orders", 1)
    with top(server) as terminal:
        terminal.shows("orders/readers")
        client.execute_command("ACL", "SETUSER", "role-reader", "-scan")  # type: ignore[no-untyped-call]
        assert terminal.wait() == 1
        assert terminal.display.modes == SETTLED
        assert terminal.attributes == terminal.before
        end = terminal.raw.decode().rpartition("\x1b[?1049l")[2]
        assert "Error: " in end
        assert "scan" in end
    client.acl_log_reset()


def test_s_changes_the_order(server: Server, client: Redis) -> None:
    fill(client, "a", 5)
    fill(client, "b", 50)
    fill(client, "c", 20, dead=3)
    with top(server) as terminal:
        terminal.shows("a/readers")  # the first picture comes before the first look
        for order, names in (("lag", "bca"), ("name", "abc"), ("dead", "cab"), ("lag", "bca")):
            text = terminal.shows(f"sorted by {order}")
            assert groups(text) == list(names)
            terminal.press("s")


def test_p_freezes_the_picture_and_lets_it_go_on(server: Server, client: Redis) -> None:
    fill(client, "orders", 5)
    with top(server) as terminal:
        terminal.shows("orders/readers")
        terminal.press("p")
        before = terminal.shows("FROZEN").splitlines()[:3]
        more(client, "orders", 20)
        terminal.draws(6)  # looking goes on, and each look is drawn
        assert terminal.text.splitlines()[:3] == before
        terminal.press("p")
        terminal.shows(lambda text: re.search(r"orders/readers +25 ", text))
        assert "FROZEN" not in terminal.text


def test_it_goes_on_through_an_outage_and_shows_it(server: Server, client: Redis) -> None:
    fill(client, "orders", 5)
    with top(server) as terminal:
        terminal.shows(lambda text: re.search(r"orders/readers +5 ", text))
        server.kill()
        text = terminal.shows("! Redis cannot be reached for ")
        assert re.search(r"orders/readers +5 ", text)  # the last picture stays
        terminal.shows("! Redis cannot be reached for 2s")
        server.start()
        with Redis(port=server.port) as again:
            more(again, "orders", 3)
        terminal.shows(lambda text: re.search(r"orders/readers +8 ", text) and "reached" not in text)
        terminal.press("q")
        assert terminal.wait() == 0
        assert terminal.display.strange == []


def test_a_server_that_hangs_does_not_keep_q_from_being_heard(server: Server, client: Redis) -> None:
    fill(client, "orders", 5)
    with top(server) as terminal:
        terminal.shows("orders/readers")
        server.pause()
        wait_until_sync(lambda: is_asked(server), 20)
        terminal.press("q")
        assert terminal.wait(5) == 0
        server.resume()


def test_many_groups_fit_into_the_screen_and_the_rest_is_counted(server: Server, client: Redis) -> None:
    for number in range(40):
        fill(client, f"a-stream-with-a-rather-long-name-{number:02}", 40 - number)
    with top(server) as terminal:
        text = terminal.shows("more remarks")
        lines = text.splitlines()
        assert len(lines) == 24
        assert lines[-1].startswith("q quit")
        shown = [line for line in lines if line.startswith("a-stream-with-")]
        (rest,) = re.findall(r"… (\d+) more groups", text)
        assert len(shown) + int(rest) == 40
        assert any(line.startswith("workers 0 alive") for line in lines)
        assert terminal.display.strange == []


@pytest.mark.parametrize(("columns", "rows"), [(200, 60), (50, 12), (20, 5), (7, 2), (1, 1)])
def test_another_size_of_the_window_is_kept_to(server: Server, client: Redis, columns: int, rows: int) -> None:
    for number in range(10):
        fill(client, f"stream-{number}-漢字", 100 + number)
    with top(server) as terminal:
        terminal.shows("stream-9")
        terminal.resize(columns, rows)
        terminal.draws(2)
        terminal.display.strange.clear()  # of what was under way for the old size
        terminal.display.resize(columns, rows)
        terminal.draws(3)
        text = terminal.text
        assert text.strip()
        assert terminal.display.strange == []
        if columns >= 20:
            assert "stream-9" in text
        terminal.press("q")
        assert terminal.wait() == 0


def test_a_new_size_is_kept_to_at_once_though_looks_are_far_apart(server: Server, client: Redis) -> None:
    fill(client, "orders", 1)
    with Terminal(*command("top", "--interval", "1000", url=server.url)) as terminal:
        terminal.shows("orders/readers")
        terminal.resize(60, 10)
        terminal.shows("orders/reade", 5)


def test_names_that_others_made_do_nothing_to_the_terminal(server: Server, client: Redis) -> None:
    evil = ALL.encode(errors="surrogatepass") + b"\xff\x1b[2J\n"
    for name in (evil, b"\x1b]0;title\x07" + evil[::-1]):
        client.xgroup_create(name, name, "0", mkstream=True)
        client.xadd(name, {name: name})
    with top(server) as terminal:
        terminal.shows(lambda text: text.count("\n! ") == 2)
        terminal.press("q")
        assert terminal.wait() == 0
        assert terminal.display.strange == []


def test_without_a_terminal_it_is_a_status_that_goes_on(server: Server, client: Redis) -> None:
    fill(client, "orders", 5)
    words = command("top", "orders", "--interval", "0.1", url=server.url)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        seen: list[bytes] = []
        assert process.stdout is not None
        while sum(line.startswith(b"orders") for line in seen) < 3:
            seen.append(process.stdout.readline())
            assert seen[-1]
        process.kill()
    assert not any(b"\x1b" in line for line in seen)
    assert seen[1].startswith(b"STREAM")


def test_exit_codes_before_it_takes_the_terminal(server: Server) -> None:
    wrong = server.url.replace("//", "//nobody:hunter2@")
    said = call("top", url=wrong)
    assert (said.code, said.out) == (3, "")
    assert "hunter2" not in said.err
    assert call("top", "--interval", "0", url=server.url).code == 2
    with Terminal(*command("top", url=wrong)) as terminal:
        assert terminal.wait() == 3
        assert b"\x1b" not in terminal.raw


def test_bars_go_from_nothing_to_the_highest_and_do_not_invent_what_is_unknown() -> None:
    assert bars([0, 1, 50, 100, None]) == "▁▂▅█·"
    assert bars([0, 0]) == "▁▁"
    assert bars([3]) == "█"
    assert bars([]) == ""
    assert bars(list(range(8))) == LEVELS


def test_before_the_first_look_there_is_a_picture_too() -> None:
    view = View(status=None, history={}, server=None, where="redis://here", order="lag", trouble="away")
    assert picture(view, 80, 24)[:2] == ["redis://here", "! away"]
    empty = View(
        status=Status(at=0.0, seconds=1.0, streams=(), errors={}), history={}, server=None, where="", order="lag"
    )
    assert "no groups" in picture(empty, 80, 24)
    for columns in range(0, 60, 7):
        for rows in range(0, 8):
            lines = picture(empty, columns, rows)
            assert len(lines) <= rows
            assert all(width(line) <= columns for line in lines)


def test_a_worker_is_told_with_what_runs_for_longest(server: Server, client: Redis) -> None:
    client.xgroup_create("orders", "billing", "0", mkstream=True)
    client.xadd("orders", {"data": "x"})
    client.xreadgroup("billing", "web-7-ab.sw", {"orders": ">"})
    report = b'{"host": "web", "pid": 7, "at": %d, "running": 2, "longest": [["5-1", "charge", 75.0]]}' % time.time()
    client.hset(Keys.of("orders", "billing").consumers.decode(), "web-7-ab.sw", b"9 60000 " + report)
    client.hset(Keys.of("orders", "billing").consumers.decode(), "web-8-ab.sw", b"9 60000 " + report)
    with top(server) as terminal:
        text = terminal.shows("web-7-ab.sw  2 run, longest charge 5-1 for 1m15s")
        assert re.search(r"workers \d alive of \d, \d handlers run", text)
        wait_until_sync(lambda: terminal.display.strange == [])
