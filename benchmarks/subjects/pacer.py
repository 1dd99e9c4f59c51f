"""Publishes at a pace, whatever becomes of it: every millisecond what is due, stamped with when it was due.

Written on a bare socket, so that it leaves the processors to those who are measured.
"""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

from benchmarks.subjects.subject import Job, read_job, tell

_TICK = 0.001


def command(name: str, body: bytes) -> bytes:
    """An XADD as the server reads it."""
    words = (b"XADD", name.encode(), b"*", b"data", body)
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def pace(job: Job) -> None:
    assert job.messages is not None
    parts = urlsplit(job.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun = time.monotonic()
        sent = answered = late = 0
        while answered < job.messages:
            now = time.monotonic()
            due = min(job.messages, int((now - begun) * job.rate)) - sent
            if due > 0:
                # The last one's: none is taken for younger than it is by more than a tick.
                at = begun + sent / job.rate
                server.sendall(command(job.name, b'{"at":%.6f}' % at) * due)
                sent += due
                late += now - at > 10 * _TICK
            if sent > answered:
                answered += server.recv(2**20).count(b"$")
            time.sleep(max(0.0, _TICK - (time.monotonic() - now)))
    tell({"late": late, "seconds": time.monotonic() - begun})


if __name__ == "__main__":
    pace(read_job())
