"""Every exception that streamworker raises, in one tree.

StreamworkerError
├── ConfigError               wrong use: an option, a handler's signature, an import string, a URL
│   └── NotFound              there is no such stream, group, consumer or dead letter
├── UndecodableBody           a body that is not what its handler's annotation says
├── PublishError              publishing failed and nothing was written
│   ├── PublishUnknown        the connection was lost: it may have been written, or not
│   └── PublishFailed         publish_many stopped part of the way
└── BrokerError               what the Redis broker makes of the driver's errors
    ├── Unavailable           not reachable, loading, failing over: wait and try again
    │   └── AuthFailed        wrong or missing credentials, ours or (its certificate) the server's
    ├── GroupMissing          the group or its stream is gone: join again
    ├── Refused               out of memory: writing is refused, reading and acking work
    ├── WrongType             a key holds something that is not what we keep there
    └── NotPermitted          the user's ACL lacks a command or a key
"""

from __future__ import annotations


class StreamworkerError(Exception):
    """The root of the tree."""


class ConfigError(StreamworkerError):
    """The program or its options are wrong; the text says what to change."""


class NotFound(ConfigError):
    """What an operator named is not there: a stream, a group, a consumer, a dead letter."""


class UndecodableBody(StreamworkerError):
    """A body does not decode to what the handler's annotation says. The text holds no payload."""


class PublishError(StreamworkerError):
    """The server refused the entry; nothing was written. The text holds no payload."""


class PublishUnknown(PublishError):
    """The connection was lost before the answer came: the entry may have been written, or not."""


class PublishFailed(PublishError):
    """``publish_many`` stopped part of the way.

    Attributes:
        reason: why.
        published: how many entries were written for certain.
        unknown: how many may have been written, or not.
        leading: how many of the first ones were written without a gap. Publishing that goes on behind them leaves
            nothing out; what is unknown, and what was written behind a refused one, it may write twice.
    """

    def __init__(self, reason: str, published: int, unknown: int, leading: int | None = None) -> None:
        super().__init__(f"{reason}: {published} published, {unknown} unknown")
        self.reason = reason
        self.published = published
        self.unknown = unknown
        self.leading = published if leading is None else leading


class BrokerError(StreamworkerError):
    """The server answered with an error that has no class of its own.

    Attributes:
        kind: one word for counting.
    """

    kind = "other"


class Unavailable(BrokerError):
    """The server cannot be reached or cannot serve right now; trying again later may help."""

    kind = "unavailable"


class AuthFailed(Unavailable):
    """The server does not accept the credentials, or its certificate is not to be trusted."""

    kind = "auth"


class GroupMissing(BrokerError):
    """The stream or its consumer group is not there any more."""

    kind = "group_missing"


class Refused(BrokerError):
    """The server is out of memory and refuses to write; reading and acking go on."""

    kind = "refused"


class WrongType(BrokerError):
    """A key holds another type than the one we keep there."""

    kind = "wrong_type"


class NotPermitted(BrokerError):
    """The user's ACL does not allow a command or a key; the text names it."""

    kind = "not_permitted"


KINDS = tuple(
    sorted(one.kind for one in (BrokerError, Unavailable, AuthFailed, GroupMissing, Refused, WrongType, NotPermitted))
)
"""The words for counting."""
