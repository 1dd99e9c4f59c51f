"""A Redis URL taken apart: which servers it names, and what of it may be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import parse_qs, urlsplit

from streamworker.errors import ConfigError

FORMS: Final = (
    "redis://host:6379/0, unix:///path/to/socket, sentinel://host:26379,host:26379/service/0 or "
    "cluster://host:6379,host:6379; with TLS rediss://, sentinels:// or clusters://"
)
_PLACE: Final = r"([\w.-]*|\[[0-9a-fA-F:.]+\])(:\d{1,5})?"  # a host or an IPv6 address, and a port
_PLACES: Final = re.compile(f"{_PLACE}(,{_PLACE})*")
_DATABASE: Final = re.compile(r"(/(?P<db>\d*))?/?")
_SERVICE: Final = re.compile(r"/(?P<service>[\w.-]+)(/(?P<db>\d*))?/?")


class Kind(Enum):
    """What a URL leads to: one server, the primary that sentinels name, or the nodes of a cluster."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES: Final = {
    "redis": (Kind.SERVER, "redis"),
    "rediss": (Kind.SERVER, "rediss"),
    "unix": (Kind.SERVER, "unix"),
    "sentinel": (Kind.SENTINEL, "redis"),
    "sentinels": (Kind.SENTINEL, "rediss"),
    "cluster": (Kind.CLUSTER, "redis"),
    "clusters": (Kind.CLUSTER, "rediss"),
}


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """What a URL says.

    Attributes:
        kind: what it leads to.
        server: the URL of the first server it names, or of one like it, as the driver takes it; never shown.
        seeds: host and port of each sentinel or cluster node it names; empty for a single server.
        service: what the sentinels call the primary and its replicas.
        sentinel_login: ``username`` and ``password`` for the sentinels themselves, as far as given.
    """

    kind: Kind
    server: str = field(repr=False)
    seeds: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_login: dict[str, str] = field(default_factory=dict, repr=False)


def read_url(url: str) -> RedisUrl:
    """Take ``url`` apart.

    Raises:
        ConfigError: it is no Redis URL. The text holds no secret.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        # Not echoed: what has no scheme may be a bare password as well as a bare host.
        raise ConfigError(f"the Redis URL has no scheme; write {FORMS}")
    if scheme not in _SCHEMES:
        raise ConfigError(f"a Redis URL cannot begin with {scheme!r}; write {FORMS}")
    if shown(url) is None:
        raise ConfigError(
            f"the {scheme}:// URL cannot be read; write {FORMS}, and percent-encode what the user or "
            "the password holds of @ / ? # [ ] and :"
        )
    kind, driven = _SCHEMES[scheme]
    if kind is Kind.SERVER:
        return RedisUrl(kind, url)
    parts = urlsplit(url)
    login, at, places = parts.netloc.rpartition("@")
    query = [option for option in parts.query.split("&") if option and not option.startswith("sentinel_")]
    database = "0"
    service = ""
    if kind is Kind.SENTINEL:
        found = _SERVICE.fullmatch(parts.path)
        if found is None:
            raise ConfigError(
                f"{shown(url)} does not say which service the sentinels are asked for; write "
                f"{scheme}://host:26379,host:26379/service/0"
            )
        service, database = found["service"], found["db"] or "0"
    elif parts.path.strip("/") not in ("", "0") or _option(parts.query, "db") not in (None, "0"):
        raise ConfigError(f"{shown(url)}: a cluster has no database but 0")
    seeds = tuple(_seed(place, 26379 if kind is Kind.SENTINEL else 6379) for place in places.split(","))
    host, port = seeds[0]
    first = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    server = f"{driven}://{login}{at}{first}/{database}" + (f"?{'&'.join(query)}" if query else "")
    sentinel_login = {name: _option(parts.query, f"sentinel_{name}") for name in ("username", "password")}
    return RedisUrl(kind, server, seeds, service, {name: said for name, said in sentinel_login.items() if said})


def shown(url: str) -> str | None:
    """Scheme and place of ``url``; None if it is no Redis URL, or a secret may stand where the place should.

    A password with a ``/``, ``?`` or ``#`` that is not encoded ends the host part early; what tells is the ``@``
    that then comes too late.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # its text holds parts of the URL
        return None
    place = parts.netloc.rpartition("@")[2]
    if "@" in parts.path + parts.query + parts.fragment:
        return None
    if parts.scheme == "unix":
        return f"unix://{parts.path}" if parts.path.startswith("/") and not place else None
    kind = _SCHEMES.get(parts.scheme, (Kind.SERVER, ""))[0]
    if kind is Kind.SERVER and "," in place:
        return None
    path = _DATABASE.fullmatch(parts.path) or (kind is Kind.SENTINEL and _SERVICE.fullmatch(parts.path))
    if not _PLACES.fullmatch(place) or not path:
        return None
    return f"{parts.scheme}://{place}{parts.path}"


def _option(query: str, name: str) -> str | None:
    return parse_qs(query).get(name, [None])[0]


def _seed(place: str, port: int) -> tuple[str, int]:
    host, colon, said = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, said = place, ""
    number = int(said or port)
    if number > 65_535:
        raise ConfigError(f"{place}: there is no port {number}")
    return host.strip("[]") or "localhost", number
