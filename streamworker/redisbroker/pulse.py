"""The heartbeat thread's connection: beats and looks of all groups in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from streamworker.broker import Beat, Look
from streamworker.errors import BrokerError
from streamworker.redisbroker import scripts
from streamworker.redisbroker.faults import classify
from streamworker.redisbroker.keys import Keys
from streamworker.redisbroker.link import Command


class RedisPulse:
    """``broker.Pulse`` on Redis. Blocking, for a thread: the event loop may stand still meanwhile."""

    def __init__(self, url: str, options: dict[str, Any], consumer: str) -> None:
        self._class = ConnectionPool.from_url(url).connection_class
        self._options = {name: value for name, value in options.items() if not name.startswith("socket_")}
        self._host = {name: options[name] for name in ("socket_keepalive",) if name in options}
        self._me = consumer
        self._connection: Any = None  # the driver's types do not pass strict checks

    def beat(self, beats: Sequence[Beat], timeout: float) -> list[Look | BrokerError]:
        calls = [(self._arguments(beat)) for beat in beats]
        try:
            connection = self._connection or self._open(timeout)
            self._connection = connection
            replies = self._exchange(connection, [scripts.BEAT.by_name(*call) for call in calls])
            if any(isinstance(reply, NoScriptError) for reply in replies):
                replies = self._exchange(connection, [scripts.BEAT.in_full(*call) for call in calls])
        except (RedisError, OSError) as error:
            self.close()
            raise classify(error) from None
        return [classify(reply) if isinstance(reply, Exception) else _look(reply) for reply in replies]

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _arguments(self, beat: Beat) -> tuple[tuple[bytes, ...], tuple[str | bytes, ...]]:
        keys = Keys.of(beat.stream, beat.group)
        return (keys.consumers, keys.stream, keys.retry), (beat.group, self._me, beat.value)

    def _open(self, timeout: float) -> Any:
        connection = self._class(
            **self._options, **self._host, socket_timeout=timeout, socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )  # fmt: skip
        connection.connect()
        return connection

    @staticmethod
    def _exchange(connection: Any, commands: Sequence[Command]) -> list[Any]:
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        return [_reply(connection) for _ in commands]


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error


def _look(reply: list[Any]) -> Look:
    flat, names = reply
    return Look(
        {name.decode(errors="replace"): value for name, value in zip(flat[::2], flat[1::2], strict=True)},
        frozenset(name.decode(errors="replace") for name in names),
    )
