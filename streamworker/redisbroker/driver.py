"""How the driver connects to a server: its connection class and arguments, as the URL has them."""

from __future__ import annotations

from inspect import signature
from time import monotonic
from typing import Any, Final, NamedTuple

from redis.asyncio.connection import AbstractConnection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from streamworker.errors import AuthFailed, BrokerError, ConfigError
from streamworker.url import RedisUrl

# hiredis gives lists of lists and bytes with RESP2; RESP3 would turn some replies into dicts, which lose
# duplicate field names. The driver's own retries are off: a transparent retry runs a command twice.
_OPTIONS: Final[dict[str, Any]] = {
    "protocol": 2,
    "decode_responses": False,
    "socket_timeout": None,
    "socket_connect_timeout": None,
    "socket_keepalive": True,
    "health_check_interval": 0,
}
# What the driver tells about itself costs two commands at each connection, and a right where ACLs are kept.
_NOT_TOLD: Final = {"driver_info"} & set(signature(AbstractConnection).parameters) or {"lib_name", "lib_version"}
_OPTIONS.update(dict.fromkeys(_NOT_TOLD))
# Who tries a wrong password again and again is taken for a burglar, and locked out.
_LOGIN_PAUSE: Final = 5.0  # seconds
_LOGIN: Final = ("username", "password", "db", "client_name")


class Place(NamedTuple):
    """Where one server listens; for a unix socket its path, and no port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


class Driver:
    """Makes connections.

    Args:
        url: whose login and options each connection has.
        for_sentinels: log in to sentinels, with what the URL says for them.

    Raises:
        ConfigError: the URL has an option the driver does not know. The text holds no password.
    """

    def __init__(self, url: RedisUrl, *, for_sentinels: bool = False) -> None:
        try:
            pool = ConnectionPool.from_url(url.server)
        except ValueError as error:
            text = str(error).replace(url.server, "(the URL)")
            raise ConfigError(f"the Redis URL is wrong: {text}") from None
        self._class = pool.connection_class
        self._options = {**pool.connection_kwargs, **_OPTIONS}
        if for_sentinels:
            self._options = {name: value for name, value in self._options.items() if name not in _LOGIN}
            self._options |= url.sentinel_login
        if issubclass(self._class, UnixDomainSocketConnection):
            del self._options["socket_keepalive"]
            self.place = Place(self._options.get("path", ""), 0)
        else:
            self.place = Place(self._options.get("host", "localhost"), self._options.get("port", 6379))
        if issubclass(self._class, SSLConnection):  # whatever the driver's version takes for granted
            self._options = {"ssl_cert_reqs": "required", "ssl_check_hostname": True, **self._options}
        self._refused = ""
        self._no_login_before = 0.0
        self._check()

    def connection(self, place: Place) -> AbstractConnection:
        """A connection to ``place``, not yet open. One of its own each time: a used one may hold an unread reply.

        Raises:
            AuthFailed: the login was refused a moment ago, to whichever connection of this process.
        """
        if monotonic() < self._no_login_before:
            raise AuthFailed(self._refused)
        where = {"host": place.host, "port": place.port} if place.port else {}
        return self._class(**{**self._options, **where}, retry=Retry(NoBackoff(), 0))

    def failed(self, error: BrokerError) -> None:
        """A connection was not let in."""
        if isinstance(error, AuthFailed):
            self._refused = str(error)
            self._no_login_before = monotonic() + _LOGIN_PAUSE

    def _check(self) -> None:
        try:
            connection = self.connection(self.place)
            if isinstance(connection, SSLConnection):
                connection.ssl_context.get()  # reads the certificates that the URL names
        except TypeError as error:
            raise ConfigError(f"the Redis URL has an option that the driver does not know: {error}") from None
        except RedisError as error:
            raise ConfigError(f"the Redis URL is wrong: {error}") from None
        except OSError as error:
            raise ConfigError(f"the certificates that the Redis URL names cannot be read: {error}") from None
