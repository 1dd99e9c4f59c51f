"""Which Redis a process talks to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from streamworker.embedded import embedded_server
from streamworker.errors import ConfigError
from streamworker.settings import read_settings

_SCHEMES = "redis://host:6379/0, rediss://host:6379/0 (TLS) or unix:///path/to/socket"
_PLACE = re.compile(r"([\w.-]*|\[[0-9a-fA-F:.]+\])(:\d{1,5})?")  # a host or an IPv6 address, and a port
_DATABASE = re.compile(r"(/\d*)?/?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked Redis URL.

    Attributes:
        url: as the driver needs it; it may hold a password and is for nobody's eyes.
        embedded: it is the embedded server, which goes when its last user has gone.
    """

    url: str = field(repr=False)
    embedded: bool = False

    def __str__(self) -> str:
        return self.masked

    @property
    def masked(self) -> str:
        """The URL for logs and errors: scheme, host, port and database or socket path, never a secret."""
        return _shown(self.url) or "…"


@contextmanager
def endpoint(explicit: str | None, app_urls: Sequence[str | None] = ()) -> Iterator[Endpoint]:
    """The Redis to use, for as long as the block lasts: the first of what is asked that gives an answer.

    Asked are ``explicit``, the apps, the environment, and then the embedded server, which runs at least
    as long as the block.

    Args:
        explicit: what ``--redis`` says.
        app_urls: what each ``App(url=)`` says; those that say nothing follow those that do.

    Raises:
        ConfigError: a URL is none of Redis, the apps differ, or there is no server to be had.
    """
    settings = read_settings()
    named = list(dict.fromkeys(url for url in app_urls if url is not None))
    if explicit is not None:
        yield _checked(explicit, "--redis")
    elif named:
        yield _agreed([_checked(url, "App(url=)") for url in named])
    elif settings.redis_url is not None:
        yield _checked(settings.redis_url, settings.redis_url_from)
    elif not settings.embedded:
        raise ConfigError(
            "no Redis URL is given, and STREAMWORKER_EMBEDDED=never forbids the embedded server: "
            "give --redis URL, or set STREAMWORKER_REDIS_URL"
        )
    else:
        with embedded_server() as url:
            yield Endpoint(url, embedded=True)


def _agreed(endpoints: list[Endpoint]) -> Endpoint:
    if len(endpoints) > 1:
        shown = sorted({str(each) for each in endpoints})
        hidden = " (they differ in what is not shown here)" if len(shown) < len(endpoints) else ""
        raise ConfigError(
            f"the apps of one process share one Redis, but their App(url=) differ: {', '.join(shown)}{hidden}; "
            "run them apart, or say --redis"
        )
    return endpoints[0]


def _checked(url: str, source: str) -> Endpoint:
    scheme, separator, _ = url.partition("://")
    if not separator:
        # Not echoed: what has no scheme may be a bare password as well as a bare host.
        raise ConfigError(f"{source}: the Redis URL has no scheme; write {_SCHEMES}")
    if scheme in ("sentinel", "cluster"):
        raise ConfigError(f"{source}: {scheme}:// is not there yet; write {_SCHEMES}")
    if scheme not in ("redis", "rediss", "unix"):
        raise ConfigError(f"{source}: a Redis URL cannot begin with {scheme!r}; write {_SCHEMES}")
    if _shown(url) is None:
        raise ConfigError(
            f"{source}: the {scheme}:// URL cannot be read; write {_SCHEMES}, and percent-encode what the user or "
            "the password holds of @ / ? # [ ] and :"
        )
    return Endpoint(url)


def _shown(url: str) -> str | None:
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
    if _PLACE.fullmatch(place) and _DATABASE.fullmatch(parts.path):
        return f"{parts.scheme}://{place}{parts.path}"
    return None
