"""What comes with a message is data: never executed, and refused by size and depth before it costs much."""

from __future__ import annotations

import ast
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

import streamworker
from tests.conftest import ProgramOf
from tests.programs import Program
from tests.running import Watched
from tests.waiting import wait_until

PACKAGE = Path(streamworker.__file__).parent
FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "code"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "execfile", "input"}
FORBIDDEN_NAMES = {"system", "popen", "import_module", "loads_pickle"}
# The operator's import string, and whether an extra is installed.
ALLOWED = {
    ("loader.py", "import_module"),
    ("re", "compile"),
}


def _violations(path: Path, source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [one.name for one in names if one.name.partition(".")[0] in FORBIDDEN_MODULES]
            case ast.ImportFrom(module=str(module)):
                found += [module] if module.partition(".")[0] in FORBIDDEN_MODULES else []
            case ast.Call(func=ast.Name(id=name)):
                found += [name] if name in FORBIDDEN_CALLS and not _is_ours(source, name) else []
            case ast.Attribute(attr=name):
                found += [name] if name in FORBIDDEN_NAMES and (path.name, name) not in ALLOWED else []
            case ast.keyword(arg="shell", value=ast.Constant(value=True)):
                found.append("shell=True")
            case _:
                pass
    return found


def _is_ours(source: str, name: str) -> bool:
    """A function of this package that is called like a builtin."""
    return re.search(rf"^(def {name}\(|from streamworker[.\w]* import .*\b{name}\b)", source, re.MULTILINE) is not None


def test_no_source_file_can_execute_what_it_reads() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 50
    found = {str(path.relative_to(PACKAGE)): _violations(path, path.read_text()) for path in files}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from marshal import loads", "import yaml.constructor", "eval('1')", "exec(code)",
        "compile(text, '', 'exec')", "importlib.import_module(name)", "os.system(name)", "__import__(name)",
        "subprocess.run(name, shell=True)",
    ],
)  # fmt: skip
def test_the_look_at_the_sources_finds(source: str) -> None:
    assert _violations(Path("body.py"), source)


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


SOURCE = """
from dataclasses import dataclass
from typing import Any
import msgspec, pydantic
from streamworker import App, Message
app = App("app")

class Order(msgspec.Struct):
    id: int
    at: Any = None

class Model(pydantic.BaseModel):
    id: int

@app.on({stream!r}, type="order")
async def order(body: Order, message: Message) -> None:
    journal("order", message.size)

@app.on({stream!r}, type="model")
async def model(body: Model) -> None:
    journal("model")

@app.on({stream!r}, type="any")
async def anything(body: dict) -> None:
    journal("any")

@app.on({stream!r}, type="text")
async def text(body: str) -> None:
    journal("text")

@app.on({stream!r}, type="fields", body="fields")
async def fields(body: dict) -> None:
    journal("fields", len(body))
"""


def peak(program: Program) -> int:
    """The most memory the process has had, in bytes."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def test_a_pickle_is_a_dead_letter_and_does_nothing(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf, tmp_path: Path
) -> None:
    watched = Watched(redis, stream, "app")
    worker = program(SOURCE.format(stream=stream), url=redis_url)
    trap = tmp_path / "it was executed"
    bombs = [pickle.dumps(Bomb(trap), protocol) for protocol in (0, 2, 5)]
    for kind in ("order", "model", "any", "text"):
        for bomb in bombs:
            for content_type in ("application/json", "application/python-pickle", "application/x-python-serialize"):
                await watched.add("data", bomb, "type", kind, "content-type", content_type, "sw-pickle", bomb)
    for expression in ("__import__('os').system('touch x')", '{"__class__":"os.system","id":1}', "!!python/object x"):
        await watched.add("data", expression, "type", "order", "handler", "os:system")
    await watched.rests()
    letters = await watched.letters()
    assert all(letter.reason.startswith("undecodable") for letter in letters)
    # A text in ASCII is a text, whatever it would do to somebody else; an unknown member is no harm.
    assert len(letters) == 3 * 9 + 2 * 3 + 2
    assert not trap.exists()
    assert not (tmp_path / "x").exists()
    pickle.loads(bombs[0])
    assert trap.exists(), "the trap is none"
    assert sorted(event.words[0] for event in worker.journal) == ["order"] + ["text"] * 3


async def test_what_is_too_large_or_too_deep_costs_no_memory_to_speak_of(
    redis: Redis, redis_url: str, stream: str, program: ProgramOf
) -> None:
    watched = Watched(redis, stream, "app")
    worker = program(SOURCE.format(stream=stream), url=redis_url)
    await watched.add("data", '{"id":1}', "type", "order")
    await wait_until(lambda: len(worker.journal) == 1, 20, lambda: worker.log)
    before = peak(worker)
    large = b'{"id":1,"at":"' + b"x" * 64 * 2**20 + b'"}'
    many = [part for number in range(10_000) for part in (f"field-{number}", "value")]
    await watched.add("data", large, "type", "order")
    await watched.add("type", "fields", *many)
    for kind in ("order", "model", "any"):
        for opening in (b"[", b'{"at":', b'{"id":1,"at":['):
            await watched.add("data", opening * 100_000, "type", kind)
    # Valid, so that only its depth is wrong.
    await watched.add("data", b'{"id":1,"at":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "type", "order")
    await watched.add("data", '{"id":2}', "type", "order")
    await watched.rests(60)
    # `type` is one of the fields.
    assert sorted(event.words for event in worker.journal) == [("fields", "10001"), ("order", "8"), ("order", "8")]
    letters = await watched.letters()
    assert len(letters) == 11
    assert [letter for letter in letters if "more than the" in letter.reason and letter.fields[1] == large]
    assert before < peak(worker) < 300 * 2**20
    await watched.do("DEL", stream, watched.keys.dead)
