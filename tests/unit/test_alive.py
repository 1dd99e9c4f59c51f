"""Signs of life: which workers are taken for alive, stuck and dead."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamworker.alive import AliveFile, default_folder, keep_alive, sick
from streamworker.errors import ConfigError
from tests.waiting import wait_until

WORKER = """
import sys, time
from pathlib import Path
from streamworker.alive import AliveFile
AliveFile(Path(sys.argv[1])).touch()
print("touched", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[AliveFile]:
    file = AliveFile(tmp_path)
    file.touch()
    yield file
    file.remove()


def age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder / f"{os.getpid()}.alive", (then, then))


def test_a_worker_that_has_touched_its_file_is_healthy(file: AliveFile, tmp_path: Path) -> None:
    assert sick(tmp_path, 30) is None


def test_without_any_worker_nothing_is_healthy(tmp_path: Path) -> None:
    assert "no worker is running" in str(sick(tmp_path, 30))
    assert "no worker is running" in str(sick(tmp_path / "nowhere", 30))


def test_a_loop_that_stands_still_makes_the_worker_sick(file: AliveFile, tmp_path: Path) -> None:
    age(tmp_path, 40)
    assert f"the event loop stands still: process {os.getpid()} for 40 s" in str(sick(tmp_path, 30))
    file.touch()
    assert sick(tmp_path, 30) is None


def test_the_file_of_a_killed_worker_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"touched\n"
        assert sick(tmp_path, 30) is None
        worker.kill()
    assert "no worker is running" in str(sick(tmp_path, 30))
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_process_id_belongs_to_somebody_else_by_now_is_no_sign_of_life(tmp_path: Path) -> None:
    (tmp_path / f"{os.getpid()}.alive").touch()  # fresh, and the process lives, but it does not hold the file
    assert "no worker is running" in str(sick(tmp_path, 30))


def test_a_file_that_somebody_removed_is_made_again(file: AliveFile, tmp_path: Path) -> None:
    (tmp_path / f"{os.getpid()}.alive").unlink()
    file.touch()
    assert sick(tmp_path, 30) is None


def test_other_files_in_the_folder_are_left_alone(file: AliveFile, tmp_path: Path) -> None:
    (tmp_path / "notes.alive").touch()
    (tmp_path / "1234567.txt").touch()
    assert sick(tmp_path, 30) is None
    assert {path.name for path in tmp_path.iterdir()} == {"notes.alive", "1234567.txt", f"{os.getpid()}.alive"}


def test_the_folder_and_the_file_are_for_their_owner_only(tmp_path: Path) -> None:
    file = AliveFile(tmp_path / "health")
    file.touch()
    assert (tmp_path / "health").stat().st_mode & 0o777 == 0o700
    assert next((tmp_path / "health").iterdir()).stat().st_mode & 0o777 == 0o600
    file.remove()


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    default_folder().symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="belongs to somebody else"):
        AliveFile(default_folder()).touch()


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / f"{os.getpid()}.alive").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        AliveFile(tmp_path).touch()
    assert not victim.exists()


@pytest.mark.anyio
async def test_the_loop_touches_the_file_and_removes_it_at_the_end(tmp_path: Path) -> None:
    task = asyncio.create_task(keep_alive(tmp_path))
    await wait_until(lambda: sick(tmp_path, 30) is None)
    age(tmp_path, 40)
    await wait_until(lambda: sick(tmp_path, 30) is None)
    task.cancel()
    await asyncio.wait([task])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_a_folder_that_cannot_be_written_is_told_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamworker.alive.INTERVAL", 0.001)
    folder = tmp_path / "file" / "folder"
    (tmp_path / "file").touch()
    tries = 0
    touch = AliveFile.touch

    def counted(self: AliveFile) -> None:
        nonlocal tries
        tries += 1
        touch(self)

    monkeypatch.setattr(AliveFile, "touch", counted)
    task = asyncio.create_task(keep_alive(folder))
    await wait_until(lambda: tries > 3)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["health.file_failed"]
    (tmp_path / "file").unlink()
    await wait_until(lambda: sick(folder, 30) is None)
    task.cancel()
    await asyncio.wait([task])
