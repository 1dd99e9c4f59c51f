"""What a command says, and the code it exits with, when it cannot go on."""

from __future__ import annotations

from streamworker.errors import AuthFailed, ConfigError, NotFound, StreamworkerError, Unavailable

MISSING, CRASHED, USAGE, NO_REDIS = 1, 1, 2, 3


def ending(error: StreamworkerError) -> tuple[str, int]:
    """The text for the user, and the exit code."""
    if isinstance(error, NotFound):
        return str(error), MISSING
    if isinstance(error, ConfigError):
        return str(error), USAGE
    if isinstance(error, AuthFailed):
        return f"no log-in to Redis: {error}", NO_REDIS
    if isinstance(error, Unavailable):
        return f"Redis cannot be reached: {error}", NO_REDIS
    return str(error), CRASHED
