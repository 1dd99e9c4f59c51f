"""Which Redis a process talks to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from streamworker.embedded import embedded_server
from streamworker.errors import ConfigError
from streamworker.settings import read_settings
from streamworker.url import read_url, shown


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
        """The URL for logs and errors: scheme, hosts, ports, service and database or socket path, never a secret."""
        return shown(self.url) or "…"


@dataclass(frozen=True, slots=True)
class NamedUrl:
    """A URL that is not checked yet, and who names it."""

    url: str = field(repr=False)
    source: str


@contextmanager
def endpoint(
    explicit: str | None,
    app_urls: Sequence[str | None] = (),
    project: Callable[[], NamedUrl | None] = lambda: None,
) -> Iterator[Endpoint]:
    """The Redis to use, for as long as the block lasts: the first of what is asked that gives an answer.

    Asked are ``explicit``, the apps, the environment, the project, and then the embedded server, which runs at
    least as long as the block.

    Args:
        explicit: what ``--redis`` says.
        app_urls: what each ``App(url=)`` says; those that say nothing follow those that do.
        project: says what the project's pyproject.toml names; called only where nobody before gives an answer.

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
    elif (named_last := project()) is not None:
        yield _checked(named_last.url, named_last.source)
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
    try:
        read_url(url)
    except ConfigError as error:
        said = str(error)
    else:
        return Endpoint(url)
    raise ConfigError(f"{source}: {said}")
