"""Facts: what each process of a soak writes down, one line each, as it happens."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from tests.programs import read_journal

# The kinds of fact, and the words that come with each:
#   published     stream id body [dead=GROUP,…]    acknowledged by the server; dead: the groups that cannot handle it
#   unknown       stream body [dead=…]             the connection was lost: published, or not
#   refused       stream                           nothing was written
#   start         run stream group id body n [timeout]   a handler begins delivery n; run is unique in its process
#   cancelled     run                              it was cancelled, whether it ends or not
#   ok, fail      run                              it returned; it raised
#   exiting       run                              it is about to end its process
#   fault-on, fault-off   fault target [ago]       target: a process id, or "server"; ago: seconds since it began
#   ended         target code asked took           a process ended; asked: term, kill or nobody; took: seconds
#   letter        stream group id body n reason    a dead letter, found at the end
#   left          stream group what [id]           something found at the end that should not be there
#   lost          stream group count               what workers or server say was trimmed


@dataclass(frozen=True, slots=True)
class Fact:
    """One line; ``at`` is seconds on the monotonic clock, which all processes of this machine share."""

    at: float
    pid: int
    kind: str
    of: Mapping[str, str] = field(default_factory=dict)


class Journal:
    """Appends facts to a file, each by one write, which is whole and stays although the process is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def note(self, kind: str, **of: object) -> None:
        """Write one fact down, now and in this process's name."""
        words = "".join(f" {name}={quote(str(value))}" for name, value in of.items())
        os.write(self._file, f"{time.monotonic_ns()} {os.getpid()} {kind}{words}\n".encode())

    def read(self) -> list[Fact]:
        """All facts of all processes so far, by their time."""
        found = []
        for event in read_journal(self.path):
            kind, *words = event.words
            pairs = (word.partition("=") for word in words)
            found.append(Fact(event.at, event.pid, kind, {name: unquote(value) for name, _, value in pairs}))
        return found
