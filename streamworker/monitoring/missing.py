"""What is said of a stream, group, consumer or dead letter that is not there."""

from __future__ import annotations

from streamworker.errors import NotFound
from streamworker.logs import clean
from streamworker.monitoring.words import name


def no_stream(stream: str) -> NotFound:
    return NotFound(f"there is no stream {name(stream)}")


def no_group(stream: str, group: str) -> NotFound:
    return NotFound(f"there is no group {name(group)} on stream {name(stream)}")


def no_consumer(stream: str, group: str, consumer: str, others: str) -> NotFound:
    return NotFound(f"there is no consumer {name(consumer)} in {name(stream)}/{name(group)}; {others}")


def no_letter(stream: str, group: str, id: str) -> NotFound:
    return NotFound(f"there is no dead letter {clean(id, 50)} of {name(stream)}/{name(group)}")
