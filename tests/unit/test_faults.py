"""What the errors of servers mean, told by their texts, which differ between versions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis import exceptions
from redis._parsers import BaseParser
from redis.client import Pipeline

from streamworker.errors import (
    AuthFailed,
    BrokerError,
    GroupMissing,
    NotPermitted,
    Refused,
    Unavailable,
    WrongType,
)
from streamworker.redisbroker.faults import Asked, Elsewhere, Moved, classify

CANARY = "SW-CANARY-4111"


def in_script_62(text: str) -> str:
    """How Redis 6.2 tells an error inside a script."""
    return f"ERR Error running script (call to f_0123456789abcdef): @user_script:3: @user_script: 3: -{text} "


def in_script_7(text: str) -> str:
    """How Redis 7 and later, and Valkey, do."""
    return f"{text} script: 0123456789abcdef, on @user_script:3."


OOM = "OOM command not allowed when used memory > 'maxmemory'."
READONLY = "READONLY You can't write against a read only replica."
WRONG = "WRONGTYPE Operation against a key holding the wrong kind of value"

TEXTS: list[tuple[type[BrokerError], str]] = [
    # blocked, and the stream or the group went away
    (GroupMissing, "UNBLOCKED the stream key no longer exists"),
    (GroupMissing, "NOGROUP No such key 'orders' or consumer group 'billing' in XREADGROUP with GROUP option"),
    (GroupMissing, "NOGROUP the consumer group this client was blocked on no longer exists"),
    (GroupMissing, "NOGROUP No such key 'orders' or consumer group 'billing'"),
    (GroupMissing, "ERR no such key"),
    (
        GroupMissing,
        "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM "
        "option to create an empty stream automatically.",
    ),
    # the server is another one now, or cannot serve
    (Elsewhere, "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"),
    (Elsewhere, READONLY),
    (Elsewhere, "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
    (Unavailable, "LOADING Redis is loading the dataset in memory"),
    (Unavailable, "LOADING Valkey is loading the dataset in memory"),
    (Unavailable, "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."),
    (Unavailable, "BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."),
    (
        Unavailable,
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands "
        "that may modify the data set are disabled, because this instance is configured to report errors during "
        "writes if RDB snapshotting fails (stop-writes-on-bgsave-error option).",
    ),
    (Unavailable, "MISCONF Errors writing to the AOF file: No space left on device"),
    (Elsewhere, "NOREPLICAS Not enough good replicas to write."),
    (Elsewhere, "CLUSTERDOWN The cluster is down"),
    (Elsewhere, "CLUSTERDOWN Hash slot not served"),
    (Unavailable, "TRYAGAIN Multiple keys request during rehashing of slot"),
    (Moved, "MOVED 3999 127.0.0.1:6381"),
    (Asked, "ASK 3999 127.0.0.1:6381"),
    (Unavailable, "ERR max number of clients reached"),
    (Moved, "MOVED 3999 :6381"),
    (Moved, "MOVED 3999 ::1:6381"),
    # out of memory
    (Refused, OOM),
    (Refused, "-OOM command not allowed when used memory > 'maxmemory'."),
    # log-in and rights
    (AuthFailed, "NOAUTH Authentication required."),
    (AuthFailed, "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH"),
    (AuthFailed, "WRONGPASS invalid username-password pair or user is disabled."),
    (AuthFailed, "ERR invalid password"),
    (
        AuthFailed,
        "ERR AUTH <password> called without any password configured for the default user. "
        "Are you sure your configuration is correct?",
    ),
    (NotPermitted, "NOPERM this user has no permissions to run the 'xadd' command"),
    (NotPermitted, "NOPERM User worker has no permissions to run the 'xadd' command"),
    (NotPermitted, "NOPERM this user has no permissions to access one of the keys used as arguments"),
    (NotPermitted, "NOPERM No permissions to access a key"),
    (NotPermitted, "NOPERM No permissions to access the 'orders' key"),
    # the wrong type
    (WrongType, WRONG),
    # codes inside a script error
    *(
        (kind, wrapped(text))
        for kind, text in ((Refused, OOM), (Elsewhere, READONLY), (WrongType, WRONG))
        for wrapped in (in_script_62, in_script_7)
    ),
    (GroupMissing, in_script_62("NOGROUP No such key 'orders' or consumer group 'billing'")),
    (Elsewhere, in_script_62("NOREPLICAS Not enough good replicas to write.")),
    (Unavailable, in_script_62("MISCONF Redis is configured to save RDB snapshots, but it's currently not able to.")),
    (
        NotPermitted,
        "ERR Error running script (call to f_01): @user_script:1: @user_script: 1: "
        "The user executing the script can't run this command or subcommand ",
    ),
    (
        NotPermitted,
        "ERR Error running script (call to f_01): @user_script:1: @user_script: 1: "
        "The user executing the script can't access at least one of the keys mentioned in the command arguments ",
    ),
    (NotPermitted, in_script_7("ERR ACL failure in script: User worker has no permissions to run the 'xadd' command")),
    (NotPermitted, in_script_7("ERR ACL failure in script: No permissions to access the 'orders' key")),
    # whatever else
    (BrokerError, "ERR syntax error"),
    (BrokerError, "BUSYGROUP Consumer Group name already exists"),
    (BrokerError, "CROSSSLOT Keys in request don't hash to the same slot"),
    (BrokerError, "NOSCRIPT No matching script. Please use EVAL."),
]


def told(text: str) -> BaseException:
    """What the driver raises when the server says ``text``."""
    error = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]
    assert isinstance(error, BaseException)
    return error


@pytest.mark.parametrize(("kind", "text"), TEXTS, ids=[f"{kind.__name__}: {text[:60]}" for kind, text in TEXTS])
def test_what_a_server_says_has_one_meaning(kind: type[BrokerError], text: str) -> None:
    error = classify(told(text))
    assert type(error) is kind
    assert str(error).startswith(text.partition(" ")[0]), "the server's words, with the code that the driver cuts off"


@pytest.mark.parametrize("name", ["OOM", "READONLY", "WRONGTYPE", "NOPERM", "BUSY", "MOVED 1", "LOADING"])
def test_a_stream_may_be_called_like_a_code(name: str) -> None:
    text = f"NOGROUP No such key '{name}' or consumer group '{name}' in XREADGROUP with GROUP option"
    assert type(classify(told(text))) is GroupMissing
    assert name in str(classify(told(text)))


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectionError("Connection closed by server."),
        exceptions.TimeoutError("Timeout reading from 127.0.0.1:6379"),
        exceptions.MaxConnectionsError("Too many connections"),
        exceptions.InvalidResponse("Protocol error"),
        ConnectionResetError(104, "Connection reset by peer"),
        ConnectionRefusedError(111, "Connection refused"),
        TimeoutError(),
        asyncio.IncompleteReadError(b"", 5),
        EOFError(),
        OSError("no route to host"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_connection_in_trouble_is_no_verdict_on_the_command(error: BaseException) -> None:
    assert type(classify(error)) is Unavailable
    assert str(classify(error)), "there is always something to be told"


def test_what_is_no_error_of_a_server_is_not_taken_for_an_outage() -> None:
    assert type(classify(ValueError("x"))) is BrokerError


def test_what_is_classified_already_stays_what_it_is() -> None:
    error = Refused("OOM")
    assert classify(error) is error


def test_the_text_is_one_short_line() -> None:
    text = str(classify(told("ERR first\r\nsecond\tthird " + 1000 * "x")))
    assert text.startswith("ERR first second third x")
    assert len(text) == 300


# --- no payload


def of_a_pipeline(*command: Any) -> BaseException:
    """The error of a pipeline of the driver, which names the command with its arguments."""
    error = told(WRONG)
    Pipeline.annotate_exception(None, error, 1, command)  # type: ignore[no-untyped-call,arg-type]
    assert CANARY in str(error), "else this test tests nothing"
    return error


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(of_a_pipeline("XADD", "orders", "*", "data", CANARY), id="pipeline"),
        # What a server says whose commands were renamed or taken away.
        pytest.param(
            told(f"ERR unknown command `XADD`, with args beginning with: `orders`, `*`, `data`, `{CANARY}`, "),
            id="unknown command of 6.2",
        ),
        pytest.param(
            told(f"ERR unknown command 'XADD', with args beginning with: 'orders' '*' 'data' '{CANARY}' "),
            id="unknown command of 7.0 and later",
        ),
    ],
)
def test_no_payload_is_told(error: BaseException) -> None:
    assert CANARY not in str(classify(error))
