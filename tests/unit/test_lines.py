"""The lines of a file, however they are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from streamworker.cli.lines import Line, Lines, LineTooLong


@contextmanager
def opened(path: Path, content: bytes) -> Iterator[int]:
    path.write_bytes(content)
    with path.open("rb", buffering=0) as file:
        yield file.fileno()


async def every(lines: Lines, most: int = 500) -> list[Line]:
    found = []
    while some := await lines.some(most):
        assert len(some) <= most
        found += some
    return found


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
async def test_lines_are_the_same_in_whatever_pieces_they_are_read(tmp_path: Path, chunk: int) -> None:
    with (
        opened(tmp_path / "file", b"one\n\n  \ntwo \r\nthree\nlast") as fd,
        patch("streamworker.cli.lines._CHUNK", chunk),
    ):
        found = await every(Lines(fd), 2)
    assert [(line.number, line.text) for line in found] == [(1, b"one"), (4, b"two "), (5, b"three"), (6, b"last")]
    assert [line.end for line in found][:3] == [4, 14, 20]


async def test_skipped_lines_keep_their_numbers_and_empty_ones_count(tmp_path: Path) -> None:
    with opened(tmp_path / "file", b"one\n\nthree\nfour\n") as fd:
        assert [(line.number, line.text) for line in await every(Lines(fd, 2))] == [(3, b"three"), (4, b"four")]


async def test_the_size_is_what_is_left_to_read_and_unknown_of_a_pipe(tmp_path: Path) -> None:
    with opened(tmp_path / "file", b"one\ntwo\n") as fd:
        os.lseek(fd, 4, os.SEEK_SET)
        lines = Lines(fd)
        assert (lines.size, [line.text for line in await every(lines)]) == (4, [b"two"])
    inlet, outlet = os.pipe()
    os.close(outlet)
    assert Lines(inlet).size is None
    assert await every(Lines(inlet)) == []
    os.close(inlet)


async def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "file", b"one\n" + b"x" * 100) as fd,
        patch("streamworker.cli.lines._CHUNK", 8),
        patch("streamworker.cli.lines._LONGEST", 20),
    ):
        lines = Lines(fd)
        assert [line.text for line in await lines.some(10)] == [b"one"]
        with pytest.raises(LineTooLong) as raised:
            await lines.some(10)
        assert raised.value.number == 2
        assert os.lseek(fd, 0, os.SEEK_CUR) < 40
