"""Import strings: what they find, and the one message for each way in which they can be wrong."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from streamworker import ConfigError
from streamworker.loader import load

Module = Callable[[str], str]

APP = """
from streamworker import App
app = App("billing")

@app.on("orders")
async def charge(order: dict) -> None: ...
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """``module(source)``: the name of a module with this source, in a folder that no test shares."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source: str) -> str:
        name = f"m_{uuid.uuid4().hex[:8]}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write


def refusal(folder: Path, *names: str, only: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load(names, app_dir=str(folder), only=only)
    return str(caught.value)


def test_an_app_is_found_in_a_module_of_the_given_folder(module: Module, tmp_path: Path) -> None:
    (app,) = load([f"{module(APP)}:app"], app_dir=str(tmp_path))
    assert app.name == "billing"


def test_an_app_may_be_an_attribute_of_something_in_the_module(module: Module, tmp_path: Path) -> None:
    name = module(APP + "class place:\n    inner = app\n")
    (app,) = load([f"{name}:place.inner"], app_dir=str(tmp_path))
    assert app.name == "billing"


def test_an_app_that_is_named_twice_runs_once(module: Module, tmp_path: Path) -> None:
    name = module(APP + "again = app\n")
    assert len(load([f"{name}:app", f"{name}:again"], app_dir=str(tmp_path))) == 1


@pytest.mark.parametrize(
    ("name", "suggested"),
    [("orders", "orders:app"), ("orders:", "orders:app"), ("examples/orders.py", "examples.orders:app")],
)
def test_a_name_without_a_colon_is_answered_with_one_that_has_it(tmp_path: Path, name: str, suggested: str) -> None:
    text = refusal(tmp_path, name)
    assert "is not an import string" in text
    assert suggested in text


@pytest.mark.parametrize("name", ["examples/orders.py:main", "./examples/orders.py:main"])
def test_a_file_is_answered_with_its_module(tmp_path: Path, name: str) -> None:
    assert "examples.orders:main" in refusal(tmp_path, name)


def test_a_module_that_is_not_there_is_answered_with_the_folder_and_the_near_ones(tmp_path: Path) -> None:
    (tmp_path / "billing.py").touch()
    text = refusal(tmp_path, "biling:app")
    assert text.startswith("biling:app: there is no module 'biling'")
    assert str(tmp_path) in text
    assert "did you mean 'billing'?" in text


def test_a_submodule_that_is_not_there_is_looked_for_in_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = tmp_path / f"p_{uuid.uuid4().hex[:8]}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "worker.py").touch()
    assert f"did you mean '{package.name}.worker'?" in refusal(tmp_path, f"{package.name}.workers:app")


def test_an_import_that_fails_inside_the_users_module_shows_their_file_and_none_of_ours(
    module: Module, tmp_path: Path
) -> None:
    inner = module("import no_such_library\n")
    name = module(f"def deep():\n    import {inner}\n\ndeep()\n")
    text = refusal(tmp_path, f"{name}:app")
    assert "failed inside your code" in text
    assert f'{name}.py", line 4' in text
    assert f'{inner}.py", line 1' in text
    assert text.endswith("ModuleNotFoundError: No module named 'no_such_library'")
    assert "loader.py" not in text
    assert "importlib" not in text


def test_the_causes_of_a_failed_import_are_shown_without_our_frames_too(module: Module, tmp_path: Path) -> None:
    name = module("try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise RuntimeError('boom') from error\n")
    text = refusal(tmp_path, f"{name}:app")
    assert "ZeroDivisionError" in text
    assert text.endswith("RuntimeError: boom")
    assert "importlib" not in text


def test_a_syntax_error_shows_the_line(module: Module, tmp_path: Path) -> None:
    name = module("x = 1\ndef broken(:\n")
    text = refusal(tmp_path, f"{name}:app")
    assert f'{name}.py", line 2' in text
    assert "SyntaxError" in text


def test_a_module_that_ends_the_program_is_an_error_and_not_an_end(module: Module, tmp_path: Path) -> None:
    text = refusal(tmp_path, f"{module('import sys; sys.exit(0)')}:app")
    assert "ended the program (SystemExit: 0)" in text


def test_a_wrong_option_of_a_handler_points_to_the_users_line(module: Module, tmp_path: Path) -> None:
    name = module(APP.replace('app.on("orders")', 'app.on("orders", concurrency=0)'))
    text = refusal(tmp_path, f"{name}:app")
    assert f'{name}.py", line' in text
    assert "concurrency=0, but it must be 1 or more" in text
    assert "streamworker/app.py" not in text


def test_an_attribute_that_is_missing_is_answered_with_the_apps_of_the_module(module: Module, tmp_path: Path) -> None:
    name = module(APP)
    text = refusal(tmp_path, f"{name}:application")
    assert "has no attribute 'application'" in text
    assert f"its apps: {name}:app" in text


def test_an_attribute_that_is_missing_is_answered_with_near_names(module: Module, tmp_path: Path) -> None:
    assert "did you mean 'make_app'?" in refusal(tmp_path, f"{module('def make_app(): ...')}:make_ap")


def test_a_factory_is_told_to_be_called(module: Module, tmp_path: Path) -> None:
    text = refusal(tmp_path, f"{module('def make(): ...')}:make")
    assert "'make' is a function, not an App" in text
    assert "app = make()" in text


@pytest.mark.parametrize(
    ("source", "attribute", "said"),
    [
        ("app = 3", "app", "'app' is a int, not an App"),
        ("from streamworker import App", "App", "is the class App, not an app"),
    ],
)
def test_what_is_not_an_app_is_named(module: Module, tmp_path: Path, source: str, attribute: str, said: str) -> None:
    assert said in refusal(tmp_path, f"{module(source)}:{attribute}")


def test_an_app_without_handlers_is_an_error(module: Module, tmp_path: Path) -> None:
    name = module("from streamworker import App\napp = App('empty')")
    assert "App('empty', 0 handlers) has no handlers" in refusal(tmp_path, f"{name}:app")


def test_a_stream_that_no_handler_consumes_is_answered_with_near_ones(module: Module, tmp_path: Path) -> None:
    name = f"{module(APP)}:app"
    assert "did you mean 'orders'?" in refusal(tmp_path, name, only=("order",))
    assert "there are: orders" in refusal(tmp_path, name, only=("x",))
    assert len(load([name], app_dir=str(tmp_path), only=("orders",))) == 1


def test_a_handler_that_cannot_be_called_with_what_its_annotations_say_is_found_at_the_start(
    module: Module, tmp_path: Path
) -> None:
    name = module(APP.replace("order: dict", "order: dict, other: int"))
    text = refusal(tmp_path, f"{name}:app")
    assert "charge" in text
    assert "other" in text


def test_an_app_dir_that_is_not_a_folder_is_an_error(tmp_path: Path) -> None:
    assert "is not a folder" in refusal(tmp_path / "nowhere", "app:app")
