"""Tells which Python files below a folder have changed."""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from streamworker.errors import ConfigError
from streamworker.logs import log

if TYPE_CHECKING:
    from watchfiles import Change

# What is installed, built or kept there is not the user's code; a folder of virtual environments is one of many names.
_NOT_THEIRS = frozenset(
    {"venv", ".venv", "__pycache__", ".git", ".hg", "node_modules", ".tox", ".nox", "site-packages"}
)
_GATHERED = 400  # ms: an editor or a checkout writes many files, and is to be told once
_LOOK = 200  # ms until the thread sees that it is to end


class Changes:
    """A context manager; when its block begins, everything that changes from then on is noticed.

    ``fileno`` can be waited for, ``taken`` says what has changed.

    Args:
        folder: where files are watched, all folders below included.

    Raises:
        ConfigError: watchfiles is not installed, or the folder cannot be watched.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ready, self._stop = threading.Event(), threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._watch, name="streamworker-changes", daemon=True)

    def __enter__(self) -> Changes:
        try:
            import watchfiles  # noqa: F401, PLC0415  (an extra)
        except ImportError:
            raise ConfigError("--reload needs the package watchfiles: pip install 'streamworker[dev]'") from None
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self.__exit__()
            raise ConfigError(f"{self._folder} cannot be watched: {self._failure}")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._reading)
        os.close(self._writing)

    def fileno(self) -> int:
        """A descriptor that can be read when something has changed."""
        return self._reading

    def taken(self) -> list[str]:
        """What has changed since the last call, relative to the folder, sorted."""
        try:
            os.read(self._reading, 4096)
        except BlockingIOError:
            return []
        found = set()
        while not self._found.empty():
            found.add(self._found.get())
        return sorted(found)

    def _watch(self) -> None:
        from watchfiles import watch  # noqa: PLC0415  (an extra)

        looks = watch(
            self._folder,
            watch_filter=self._is_theirs,
            debounce=_GATHERED,
            rust_timeout=_LOOK,
            yield_on_timeout=True,
            stop_event=self._stop,
        )
        try:
            for changes in looks:
                self._ready.set()  # with the first look, be it in vain, watching has begun
                for _, path in changes:
                    self._found.put(os.path.relpath(path, self._folder))
                if changes:
                    self._wake()
        except (OSError, RuntimeError) as error:  # too many folders for the system, or the folder is gone
            self._failure = error
            if self._ready.is_set():
                log.error("reload.failed", folder=str(self._folder), reason=error)
        finally:
            self._ready.set()

    def _is_theirs(self, change: Change, path: str) -> bool:
        return path.endswith(".py") and _NOT_THEIRS.isdisjoint(os.path.relpath(path, self._folder).split(os.sep))

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # full: it is to be read anyway
            os.write(self._writing, b"c")
