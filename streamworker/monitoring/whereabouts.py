"""Where one entry is: for each group of its stream, what has become of it."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from streamworker.errors import BrokerError, Unavailable
from streamworker.ids import EntryId, written
from streamworker.monitoring.entries import Due, Letter, Sighting, Trace, Waiting
from streamworker.monitoring.facts import Observer
from streamworker.monitoring.shown import EntryShown, LetterShown, letter_shown, shown, why
from streamworker.monitoring.snapshots import age
from streamworker.monitoring.words import name, span

State: TypeAlias = Literal["unread", "pending", "waiting", "due", "dead", "done", "gone", "unknown"]


class GroupPlace(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of an entry in one group.

    Attributes:
        group: its name.
        exists: False if the group is gone and only what it kept is left.
        state: ``"unread"``; ``"pending"``; ``"waiting"`` for its retry; ``"due"``, to be given to the next worker;
            ``"dead"``; ``"done"``: the group is past it, and has nothing of it; ``"gone"``: the same, but the entry is
            not in the stream either, so it may have been trimmed unread; ``"unknown"``: more is kept than was searched.
        text: all of it in a sentence.
        consumer: of a pending one, who holds it.
        seconds: of a pending one, since it was delivered.
        retry: of a pending one, whether it is a retry or a redriven letter.
        deliveries: how many there were, if anything tells.
        due_seconds: of a waiting one, until its retry.
        dead_letters: its dead letters, also those from before it was redriven.
    """

    group: str
    exists: bool
    state: State
    text: str
    consumer: str | None = None
    seconds: float | None = None
    retry: bool | None = None
    deliveries: int | None = None
    due_seconds: float | None = None
    dead_letters: tuple[LetterShown, ...] = ()


class Whereabouts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one entry.

    Attributes:
        stream, id: which.
        in_stream: whether it is still there; else ``entry`` comes from a retry or a dead letter.
        age_seconds: since it was published; None if its id is no time.
        entry: what it says; None if nothing has it any more, though it is pending.
        fields: all its fields in their order, names and values; what is not UTF-8 is written as ``\\xff``.
        groups: what has become of it in each.
    """

    stream: str
    id: str
    in_stream: bool
    age_seconds: float | None
    entry: EntryShown | None
    fields: tuple[tuple[str, str], ...]
    groups: tuple[GroupPlace, ...]


async def whereabouts(observer: Observer, stream: str, id: EntryId) -> Whereabouts | None:
    """Everything about the entry ``id`` of ``stream``; None if nothing knows it.

    Raises:
        BrokerError: the stream cannot be looked at.
    """
    seen = await observer.find(stream, id)
    # A retry that moves on between two questions is seen by neither: whom nothing has is looked for again.
    if seen.entry is None or not all(trace.found or trace.last_delivered < id for trace in seen.traces):
        seen = await observer.find(stream, id, await _gone(observer, stream) if seen.entry is None else ())
    if seen.entry is None and not any(trace.found for trace in seen.traces):
        return None
    fields = seen.entry.fields if seen.entry is not None else _kept(seen)
    words = [word.decode(errors="backslashreplace") for word in fields or ()]
    return Whereabouts(
        stream=stream,
        id=written(id),
        in_stream=seen.entry is not None,
        age_seconds=age(id, seen.now),
        entry=None if fields is None else shown(written(id), fields),
        fields=tuple(zip(words[::2], words[1::2], strict=False)),
        groups=tuple(_place(trace, seen, id) for trace in seen.traces),
    )


async def _gone(observer: Observer, stream: str) -> set[str]:
    """Groups of which only our keys are left."""
    try:
        return (await observer.streams()).get(stream, set())
    except Unavailable:
        raise
    except BrokerError:  # who may not ask
        return set()


def _kept(seen: Sighting) -> list[bytes] | None:
    for trace in seen.traces:
        copies: tuple[Waiting | Due | Letter, ...] = (*trace.waiting, *trace.due, *trace.letters)
        if copies:
            return copies[0].fields
    return None


def _place(trace: Trace, seen: Sighting, id: EntryId) -> GroupPlace:
    letters = tuple(letter_shown(letter) for letter in trace.letters)
    due = next(iter(sorted(trace.due, key=lambda one: one.pending is None)), None)
    pending = trace.pending or (due.pending if due is not None else None)

    def place(state: State, text: str, **more: Any) -> GroupPlace:
        return GroupPlace(
            group=trace.group, exists=trace.exists, state=state, text=text, dead_letters=letters, **more
        )  # fmt: skip

    if pending is not None:
        retry = trace.pending is None
        text = f"pending with {name(pending.consumer, 80)} for {span(pending.idle)}, delivery {pending.deliveries}"
        if retry:
            text += ", a retry"
        more = {"consumer": pending.consumer, "seconds": pending.idle, "retry": retry}
        return place("pending", text, deliveries=pending.deliveries, **more)
    if due is not None:
        text = f"is due: waits for a worker, {_deliveries(due.deliveries)}"
        return place("due", text, deliveries=due.deliveries)
    if trace.waiting:
        waits = trace.waiting[0]
        when = f"due in {span(waits.due)}" if waits.due >= 0 else f"overdue for {span(-waits.due)}"
        text = f"waits for its retry, {when}, {_deliveries(waits.deliveries)}"
        return place("waiting", text, deliveries=waits.deliveries, due_seconds=waits.due)
    if letters:
        return place("dead", _dead(letters[-1], seen.now), deliveries=letters[-1].deliveries)
    return place(*_without(trace, seen, id))


def _without(trace: Trace, seen: Sighting, id: EntryId) -> tuple[State, str]:
    """What can be said where the group has nothing of it."""
    if trace.exists and seen.entry is not None and id > trace.last_delivered:
        return "unread", "not read yet"
    if not trace.whole:
        return "unknown", "done, or among the dead letters and retries that were not looked through: there are too many"
    if not trace.exists:
        return "gone", "the group is gone, and has nothing of it"
    if seen.entry is None:
        return "gone", "done, or trimmed before it was read"
    return "done", "done"


def _dead(letter: LetterShown, now: float) -> str:
    since = span(now - letter.time) if letter.time is not None else "an unknown time"
    return f"dead letter for {since}: {why(letter)}"


def _deliveries(count: int) -> str:
    return f"{count} deliver{'y' if count == 1 else 'ies'}"
