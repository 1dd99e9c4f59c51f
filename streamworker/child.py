"""One worker process as its parent holds it: it drains when the parent lets go of a pipe, or dies.

A signal passed on would be the second one, which ends a worker at once, wherever the first went to the
whole group (systemd does that). So children live in sessions of their own, and a signal of the terminal
reaches them once, through the parent.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from streamworker.identity import consumer_name, new_token
from streamworker.vitals import Vitals

MARGIN = 5.0  # seconds beyond the drain's limit until a child that does not end by itself is killed
MOST_REPLACED = 20  # names handed on; what is older than that has been taken for dead by its lease


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child is told when it is started.

    Attributes:
        number: its place, from 1 on.
        token: the random part of its consumer name.
        replaces: the consumer names of the dead processes whose place it takes; several where replacements died
            before they could say so of their predecessor.
        pipe: a descriptor it inherits; at its end, it drains.
        signs: a descriptor it inherits; its event loop writes there every few seconds.
    """

    number: int
    token: str
    replaces: tuple[str, ...]
    pipe: int
    signs: int


class Child:
    """A process that is started at once.

    Args:
        command: makes its argument vector.
        number: its place, from 1 on.
        replaces: consumer names of dead processes whose place it takes.
        environment: its environment; the parent's by default.

    Raises:
        OSError: the system could not start it: no memory, too many processes, too many files.

    Attributes:
        vitals: its signs of life.
    """

    def __init__(
        self,
        command: Callable[[Birth], Sequence[str]],
        number: int = 1,
        replaces: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._token = new_token()
        reading, writing = os.pipe()
        self._writing: int | None = writing
        try:
            self.vitals = Vitals()
            try:
                self._process = subprocess.Popen(  # noqa: S603  (our own command line)
                    command(Birth(number, self._token, replaces, reading, self.vitals.writing)),
                    env=environment,
                    pass_fds=(reading, self.vitals.writing),
                    start_new_session=True,
                )
            except OSError:
                self.vitals.close()
                raise
            finally:
                self.vitals.born()
        except OSError:
            self.drain()
            raise
        finally:
            os.close(reading)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def consumer(self) -> str:
        """Its name in its groups."""
        return consumer_name(self._token, self.pid)

    def ended(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def drain(self) -> None:
        """Have it finish what runs, and end; it may be told again."""
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None

    def kill(self) -> None:
        """End it at once, and wait for that."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let go of what this process holds of it; to be called once, when it has ended."""
        self.drain()
        self.vitals.close()


def reap_stranger(ours: Collection[int]) -> bool:
    """Take notice of one dead child that is not of ``ours``; False if none has died at all.

    PID 1 of a container is handed all orphans; those nobody takes notice of stay as zombies.
    """
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    if found is None:
        return False
    if found.si_pid not in ours:
        with suppress(ChildProcessError):
            os.waitpid(found.si_pid, os.WNOHANG)
    return True
