"""A child's signs of life, as its supervisor sees them: what its event loop writes into a pipe every few seconds."""

from __future__ import annotations

import os

# The two signs; which server it is on only the child knows, since the app may name one.
ALIVE, ALIVE_ON_EMBEDDED = b".", b"e"


class Vitals:
    """The reading end of the pipe.

    Attributes:
        writing: the other end, for the child; to be closed here by ``born`` once the child has it.
        embedded: whether the last sign said that the child uses the embedded server.
    """

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._seen: float | None = None
        self.embedded = False

    def born(self) -> None:
        """The child was started, or could not be."""
        os.close(self.writing)

    def silence(self, now: float) -> float:
        """Seconds since its last sign of life; 0 before the first: it may be importing for a long time.

        What waits in the pipe counts from now: this process may have been stopped itself.
        """
        try:
            if signs := os.read(self._reading, 4096):
                self._seen = now
                self.embedded = signs.endswith(ALIVE_ON_EMBEDDED)
        except BlockingIOError:
            pass
        return now - self._seen if self._seen is not None else 0.0

    def fileno(self) -> int:
        """A descriptor that can be read after a sign of life, and after the child's end."""
        return self._reading

    def close(self) -> None:
        os.close(self._reading)
