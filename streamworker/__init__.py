"""streamworker: an asyncio worker for Redis Streams."""

from streamworker.app import App
from streamworker.backoff import Backoff
from streamworker.errors import (
    BrokerError,
    ConfigError,
    NotFound,
    PublishError,
    PublishFailed,
    PublishUnknown,
    StreamworkerError,
    Unavailable,
    UndecodableBody,
)
from streamworker.message import Message
from streamworker.verdicts import Drop, Failure, Reject, Retry

__all__ = [
    "App",
    "Backoff",
    "BrokerError",
    "ConfigError",
    "Drop",
    "Failure",
    "Message",
    "NotFound",
    "PublishError",
    "PublishFailed",
    "PublishUnknown",
    "Reject",
    "Retry",
    "StreamworkerError",
    "Unavailable",
    "UndecodableBody",
]
