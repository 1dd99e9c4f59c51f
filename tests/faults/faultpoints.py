"""Fault points: places by name in a message's way at which a test has something done, such as killing the process."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from streamworker.redisbroker import scripts
from streamworker.redisbroker.link import Link, Script
from streamworker.redisbroker.pulse import RedisPulse

_SCRIPTS = {value.sha: name for name, value in vars(scripts).items() if isinstance(value, Script)}


@dataclass(slots=True)
class FaultPoint:
    """Before a command is sent for the ``number``-th time, or after its reply came and before anybody has seen it.

    ``call`` is the name of a command, or of one of our scripts (``TURN``, ``RETRY``, ``BEAT``, …).
    """

    when: Literal["before", "after"]
    call: str
    number: int = 1
    _seen: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> FaultPoint:
        """``before-XACK`` or ``after-XREADGROUP:3``."""
        place, _, number = text.partition(":")
        when, _, call = place.partition("-")
        if when not in ("before", "after") or not call:
            raise ValueError(f"{text!r} is no fault point; write before-XACK or after-XREADGROUP:3")
        return cls("before" if when == "before" else "after", call, int(number or 1))

    def reached(self, when: str, calls: Sequence[str]) -> bool:
        """Whether this is it, with these calls in one round trip."""
        if when != self.when or self.call not in calls:
            return False
        self._seen[when] = self._seen.get(when, 0) + 1
        return self._seen[when] == self.number


def arm(point: FaultPoint, act: Callable[[], None]) -> None:
    """Have ``act`` called at ``point``, in this process and for good.

    All that the runtime asks of a server goes through two methods of its links and one of its pulse, so what
    is wrapped is these, whoever makes the links and however.
    """

    def reach(when: str, calls: Sequence[str]) -> None:
        if point.reached(when, calls):
            act()

    def around(method: Callable[..., Any], names: Callable[[Sequence[Any]], list[str]]) -> Any:
        @functools.wraps(method)
        async def wrapped(link: Link, asked: Sequence[Any], **options: Any) -> Any:
            reach("before", names(asked))
            answer = await method(link, asked, **options)
            reach("after", names(asked))
            return answer

        return wrapped

    beat = RedisPulse.beat

    def beating(pulse: RedisPulse, *arguments: Any) -> Any:
        reach("before", ["BEAT"])
        looks = beat(pulse, *arguments)
        reach("after", ["BEAT"])
        return looks

    patched: Any = Link
    patched.pipeline = around(Link.pipeline, lambda commands: [str(command[0]) for command in commands])
    patched.scripts = around(Link.scripts, lambda calls: [_SCRIPTS[call[0].sha] for call in calls])
    patched = RedisPulse
    patched.beat = beating
