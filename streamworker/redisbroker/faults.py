"""What each of the driver's exceptions means, told by the error's text, which differs between servers."""

from __future__ import annotations

import re

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    RedisError,
    ResponseError,
)

from streamworker.errors import (
    AuthFailed,
    BrokerError,
    GroupMissing,
    NotPermitted,
    Refused,
    Unavailable,
    WrongType,
)


class Elsewhere(Unavailable):
    """Another server is the one to ask, or may be: this one was demoted, is cut off, or has lost the slot."""


class Moved(Elsewhere):
    """The slot lives on another node of the cluster. Nothing was done.

    ``host`` is empty where it is the host that was asked; ``Link`` fills it in.
    """

    def __init__(self, text: str, slot: int, host: str, port: int) -> None:
        super().__init__(text)
        self.slot = slot
        self.host = host
        self.port = port


class Asked(Unavailable):
    """The key has been moved already, its slot not yet: for this once, ask the other node. Nothing was done."""

    def __init__(self, text: str, host: str, port: int) -> None:
        super().__init__(text)
        self.host = host
        self.port = port


# Inside a script the code stands in the middle of the text ("… -OOM command not allowed …" on 6.2),
# so codes are searched for as words. The order decides where a text holds several.
_BY_CODE: tuple[tuple[re.Pattern[str], type[BrokerError]], ...] = tuple(
    (re.compile(pattern), error)
    for pattern, error in (
        (r"\b(WRONGPASS|NOAUTH)\b|invalid username-password|Authentication required", AuthFailed),
        (r"\bOOM\b|command not allowed when used memory", Refused),
        # NOREPLICAS is what an old primary says that was cut off, where min-replicas-to-write is set.
        (r"\b(READONLY|MASTERDOWN|NOREPLICAS|CLUSTERDOWN)\b|instance state changed|against a read only", Elsewhere),
        (r"\b(LOADING|BUSY|MISCONF|TRYAGAIN)\b|max number of clients|Redis is busy running a script", Unavailable),
        (r"NOGROUP|no longer exists|no such key|requires the key to exist", GroupMissing),
        (r"WRONGTYPE|wrong kind of value", WrongType),
        (
            r"NOPERM|has no permissions|ACLs rules|can't run this command|No permissions to|can't access at least one",
            NotPermitted,
        ),
    )
)

_REDIRECTION = re.compile(r"\b(MOVED|ASK) (\d+) (\S*):(\d+)")
_NAMES = re.compile(r"'.*'")  # a stream may be called like a code


def classify(error: BaseException) -> BrokerError:
    """Translate ``error``; the text keeps the server's words, never a command's arguments."""
    if isinstance(error, BrokerError):
        return error
    text = _text(error)
    if isinstance(error, AuthenticationError | AuthenticationWrongNumberOfArgsError | AuthorizationError):
        return AuthFailed(text)
    if isinstance(error, BusyLoadingError):
        return Unavailable(text)
    if isinstance(error, ResponseError):
        return _answered(text, error.status_code or "")
    if isinstance(error, InvalidResponse):
        return Unavailable(f"what answers there does not speak the protocol of Redis ({text})")
    if "CERTIFICATE_VERIFY_FAILED" in text:  # it will not be a better one in a moment
        return AuthFailed(f"the server's certificate is refused: {text}")
    if isinstance(error, RedisError | OSError | TimeoutError | EOFError):
        return Unavailable(text)
    return BrokerError(text)


def _answered(text: str, code: str) -> BrokerError:
    """What the server answered, by its words and the code in front of them."""
    said = _NAMES.sub("", text)
    if redirection := _REDIRECTION.match(said):
        word, slot, host, port = redirection.groups()
        return Moved(text, int(slot), host, int(port)) if word == "MOVED" else Asked(text, host, int(port))
    for pattern, kind in _BY_CODE:
        if pattern.search(said) or pattern.search(code):
            return kind(text)
    return BrokerError(text)


def _text(error: BaseException) -> str:
    """The server's words, on one line, without the arguments that drivers and servers append: they are payload."""
    text = str(error).partition("Command # ")[0].partition(", with args beginning")[0]
    text = text or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
    code = getattr(error, "status_code", None)
    text = f"{code} {text}" if code and not text.startswith(code) else text
    return " ".join(text.split())[:300]
