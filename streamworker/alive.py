"""Says that a worker is alive without asking Redis: its event loop touches a file every two seconds.

A worker holds a lock on its file for as long as it lives, so that a file left by a dead one is known
even when its process id is used again. Its supervisor is told through a pipe.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from streamworker.errors import ConfigError

INTERVAL = 2.0
_SUFFIX = ".alive"


def default_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"streamworker-{os.getuid()}"


async def keep_alive(folder: Path, pipe: int | None = None, sign: bytes = b".") -> None:
    """Touch this process's file for as long as the event loop turns; ends by being cancelled.

    A folder that cannot be written is reported once, and tried again: health is no reason to stop working.

    Args:
        folder: where the file is.
        pipe: where a supervisor reads signs of life, if there is one.
        sign: what is written there.
    """
    file = AliveFile(folder)
    failed = False
    if pipe is not None:
        os.set_blocking(pipe, False)
    try:
        while True:
            if pipe is not None:
                with suppress(OSError):  # full, since the supervisor is stopped; or it is dead
                    os.write(pipe, sign)
            try:
                file.touch()
            except (OSError, ConfigError) as error:
                if not failed:
                    from streamworker.logs import log  # noqa: PLC0415  (healthcheck does without structlog)

                    log.warning("health.file_failed", folder=str(folder), reason=error)
                failed = True
            else:
                failed = False
            await asyncio.sleep(INTERVAL)
    finally:
        file.remove()


class AliveFile:
    """The file of this process in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"{os.getpid()}{_SUFFIX}"
        self._descriptor: int | None = None

    def touch(self) -> None:
        if self._descriptor is not None and self._is_there(self._descriptor):
            os.utime(self._descriptor)
            return
        self._close()
        _make(self._folder)
        # No link is followed: others may write in the temporary folder.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # waits for a look of `healthcheck` at most
        os.utime(self._descriptor)

    def remove(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                self._path.unlink()
            self._close()

    def _is_there(self, descriptor: int) -> bool:
        # Cleaners of temporary folders remove it sometimes.
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.lstat())
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if folder == default_folder() and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
        raise ConfigError(f"{folder} belongs to somebody else; name another folder with STREAMWORKER_HEALTH_DIR")


def sick(folder: Path, max_age: float) -> str | None:
    """Why the workers of this folder are not healthy; None if they are. Files of dead processes are removed.

    Args:
        folder: where the workers keep their files.
        max_age: seconds since an event loop's last turn after which a worker counts as stuck.
    """
    ages = dict(_living(folder))
    if not ages:
        return f"no worker is running (no live process has a file in {folder})"
    stuck = {pid: age for pid, age in ages.items() if age > max_age}
    if stuck:
        which = ", ".join(f"process {pid} for {age:.0f} s" for pid, age in sorted(stuck.items()))
        return f"the event loop stands still: {which} (more than {max_age:g} s)"
    return None


def _living(folder: Path) -> Iterator[tuple[int, float]]:
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            pid = int(path.stem)
            modified = path.lstat().st_mtime
            if not _process_lives(pid) or not _is_locked(path):
                path.unlink()
                continue
        except (ValueError, OSError):
            continue  # not one of ours, or gone since
        yield pid, time.time() - modified


def _process_lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
