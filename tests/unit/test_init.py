"""``streamworker init``: the project it writes, and when it writes none."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamworker.cli.run import run
from streamworker.cli.starter import FILES
from tests.commands import Said
from tests.faults.test_hostile_texts import ALL, is_harmless

ROOT = Path(__file__).parents[2]


def init(*words: str | bytes, folder: Path, **environment: str) -> Said:
    done = subprocess.run(
        [sys.executable, "-m", "streamworker", "init", *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=30,
        check=False,
    )
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


def made(folder: Path, *words: str) -> Path:
    said = init("shop", *words, folder=folder)
    assert (said.code, said.err) == (0, "")
    return folder / "shop"


def written(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def compose(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "docker-compose.yml").read_text())
    return found


def test_the_tests_of_the_project_pass(tmp_path: Path) -> None:
    project = made(tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_each_file_is_written_with_the_name_in_it(tmp_path: Path) -> None:
    files = written(made(tmp_path))
    assert set(files) == set(FILES)
    assert not [name for name, text in files.items() if "{{" in text or not text.endswith("\n")]
    project = tomllib.loads(files["pyproject.toml"])
    assert project["project"]["name"] == "shop"
    assert f"streamworker[uvloop]>={version('streamworker')}" in project["project"]["dependencies"]
    assert set(project["project"]["optional-dependencies"]) == {"dev", "test"}
    assert project["tool"]["streamworker"] == {"app": "app:app"}
    assert 'App("shop")' in files["app.py"]
    assert files["README.md"].startswith("# shop\n")


def test_no_template_is_left_out() -> None:
    templates = {path.name for path in (ROOT / "streamworker/starter").iterdir()}
    assert templates == {f"{name.removeprefix('.')}.tmpl" for name in FILES}


def test_the_name_is_that_of_the_folder_unless_one_is_given(tmp_path: Path) -> None:
    assert 'App("billing-2")' in (made(tmp_path, "--name", "billing-2") / "app.py").read_text()
    here = tmp_path / "Shop.2"
    here.mkdir()
    assert init(folder=here).code == 0
    assert 'App("Shop.2")' in (here / "app.py").read_text()


@pytest.mark.parametrize("name", ["", "my shop", "-x", "x-", 'x"', "x\n", "é", "streamworker", "StreamWorker"])
def test_a_name_that_no_project_can_have_is_wrong_usage(tmp_path: Path, name: str) -> None:
    said = init("shop", f"--name={name}", folder=tmp_path)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("Error: --name ")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "shop").exists()


def test_a_folder_whose_name_no_project_can_have_asks_for_one(tmp_path: Path) -> None:
    said = init("my shop", folder=tmp_path)
    assert (said.code, said.out) == (2, "")
    assert said.err.endswith("give one with --name\n")
    said = init("my shop", "--name", "shop", folder=tmp_path)
    assert said.code == 0
    assert "    cd 'my shop'\n" in said.out


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    project = tmp_path / "shop"
    project.mkdir()
    (project / "README.md").write_text("mine")
    (project / "Dockerfile").symlink_to(tmp_path / "nowhere")
    said = init("shop", folder=tmp_path)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("Error: in shop are already: Dockerfile, README.md. Nothing was written; ")
    assert "--force" in said.err
    assert written(tmp_path) == {"shop/README.md": "mine"}
    # No variable can say it: it would be forgotten there.
    assert init("shop", folder=tmp_path, STREAMWORKER_FORCE="1").code == 1
    (project / "Dockerfile").unlink()
    assert init("shop", "--force", folder=tmp_path).code == 0
    assert written(project)["README.md"].startswith("# shop\n")


def test_what_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "shop" / "app.py").mkdir(parents=True)
    said = init("shop", "--force", folder=tmp_path)
    assert said == Said(1, "", "Error: shop/app.py cannot be written: Is a directory\n")
    (tmp_path / "file").write_text("")
    assert init("file", folder=tmp_path).code == 2
    assert init("file/shop", folder=tmp_path) == Said(1, "", "Error: file/shop cannot be written: Not a directory\n")


def test_a_folder_with_a_hostile_name_does_nothing_to_the_terminal(tmp_path: Path) -> None:
    name = "".join(char for char in ALL if char not in "/\0").encode(errors="replace") + b"\xff"
    for at in range(0, len(name), 200):
        part = b"x" + name[at : at + 200]
        # The second one finds the files of the first in its way.
        for words in ((part,), (part, "--name", "shop"), (part, "--name", "shop"), ("y", "--name", part)):
            said = init(*words, folder=tmp_path)
            assert is_harmless(said.out + said.err, "\n")


def test_it_says_the_commands_of_the_readme(tmp_path: Path) -> None:
    said = init("shop", folder=tmp_path)
    readme = (tmp_path / "shop" / "README.md").read_text()
    steps = [line.strip() for line in said.out.splitlines() if line.startswith("    ")]
    assert steps[0] == "cd shop"
    assert len(steps) == 4
    assert all(f"\n{step}\n" in readme for step in steps[1:])
    assert all("streamworker" in step or "pytest" in step for step in steps[1:])


def test_the_images_are_made_as_that_of_streamworker(tmp_path: Path) -> None:
    project = made(tmp_path)
    ours, theirs = (ROOT / "Dockerfile").read_text(), (project / "Dockerfile").read_text()
    kinds = ("FROM python", "USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "WORKDIR /app")
    for kind in kinds:
        lines = [{line.partition(" AS ")[0] for line in text.splitlines() if line.startswith(kind)}
                 for text in (ours, theirs)]  # fmt: skip
        assert lines[0] == lines[1] != set()
    assert "STREAMWORKER_EMBEDDED=never" in theirs
    copied = theirs.partition("COPY pyproject.toml *.py ./")
    assert copied[1]
    assert {"!pyproject.toml", "!*.py"} <= set((project / ".dockerignore").read_text().splitlines())


def test_the_services_are_those_of_streamworkers_own_example(tmp_path: Path) -> None:
    ours, theirs = compose(ROOT), compose(made(tmp_path))
    for services in (ours["services"], theirs["services"]):
        del services["worker"]["build"]
    assert theirs == ours
    drain: Any = next(option.default for option in run.params if "--shutdown-timeout" in option.opts)
    assert int(theirs["services"]["worker"]["stop_grace_period"].removesuffix("s")) >= drain + 5
