"""The Windows launchers, executed by wine's cmd with a stub in Python's place.

This shows the commands they issue, the branches they take and what they say. It does not show that
the project installs on Windows: there is no Windows Python here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.wine, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = ("start_backend.bat", "start_gradio.bat", "start_streamlit.bat")
COMPILER = "x86_64-w64-mingw32-gcc"


@dataclass(frozen=True)
class Call:
    program: str
    directory: str
    environment: str
    arguments: str


@dataclass(frozen=True)
class Outcome:
    code: int
    said: str
    calls: list[Call]

    @property
    def arguments(self) -> list[str]:
        return [call.arguments for call in self.calls]


@pytest.fixture(scope="session")
def wine_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    for program in ("wine", COMPILER):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    prefix = tmp_path_factory.mktemp("prefix")
    env = {**os.environ, "WINEPREFIX": str(prefix), "WINEDEBUG": "-all", "WINEARCH": "win64"}
    subprocess.run(["wineboot", "--init"], env=env, check=True, capture_output=True, timeout=200)
    # One server for all tests: without it each "wine cmd" starts its own, which takes seconds.
    subprocess.run(["wineserver", "--persistent"], env=env, check=True)
    # The first program starts wine's services, which keep its output open for as long as they live.
    quiet = subprocess.DEVNULL
    subprocess.run(["wine", "cmd", "/c", "exit"], env=env, check=True, stdout=quiet, stderr=quiet)
    yield env
    subprocess.run(["wineserver", "--kill"], env=env, check=False)


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory, wine_environment: dict[str, str]) -> Path:
    del wine_environment  # skips when the compiler is missing
    program = tmp_path_factory.mktemp("stub") / "python.exe"
    source = Path(__file__).with_name("python_stub.c")
    subprocess.run([COMPILER, "-O1", "-o", program, source], check=True, timeout=120)
    return program


class Project:
    """A copy of the launchers in a folder with a space, beside a stub of Python on the PATH."""

    def __init__(self, folder: Path, stub: Path, env: dict[str, str]) -> None:
        self.root, self.programs = folder / "my project", folder / "programs"
        (self.root / "scripts").mkdir(parents=True)
        self.programs.mkdir()
        self._stub, self._env = stub, env
        for name in (*LAUNCHERS, "scripts/activate_environment.bat"):
            shutil.copy(ROOT / name, self.root / name)
        self.install("python.exe")

    def install(self, name: str) -> None:
        shutil.copy(self._stub, self.programs / name)

    def make_environment(self) -> None:
        scripts = self.root / ".venv" / "Scripts"
        scripts.mkdir(parents=True)
        shutil.copy(self._stub, scripts / "python.exe")
        # What Python's own activate.bat does, as far as it matters here.
        (scripts / "activate.bat").write_bytes(
            b'@echo off\r\nset "VIRTUAL_ENV=%~dp0.."\r\nset "PATH=%~dp0;%PATH%"\r\n'
        )

    def run(self, launcher: str, *arguments: str, exits: str = "", keys: str = "") -> Outcome:
        log = self.root.parent / "calls.log"
        done = subprocess.run(
            ["wine", "cmd", "/c", str(self.root / launcher), *arguments],
            env={
                **self._env,
                "WINEPATH": str(self.programs),
                "STUB_LOG": "Z:" + str(log).replace("/", "\\"),
                "STUB_EXIT": exits,
            },
            cwd=self.root.parent,  # a double click starts elsewhere, too
            input=keys,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=60,
            check=False,
        )
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return Outcome(done.returncode, done.stdout, [Call(*line.split("|", 3)) for line in lines])


@pytest.fixture
def project(tmp_path: Path, stub: Path, wine_environment: dict[str, str]) -> Project:
    return Project(tmp_path, stub, wine_environment)


COMMANDS = {
    "start_backend.bat": ["-m backend.app"],
    "start_gradio.bat": [r"scripts\check_backend.py", r"scripts\serve_page.py gradio"],
    "start_streamlit.bat": [r"scripts\check_backend.py", r"scripts\serve_page.py streamlit"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_it_makes_and_activates_the_environment_and_then_starts(
    project: Project, launcher: str
) -> None:
    project.make_environment()
    outcome = project.run(launcher, "--no-pause")

    expected = ["--version", r"scripts\environment.py", *COMMANDS[launcher]]
    assert outcome.arguments == expected
    assert outcome.code == 0
    assert all(call.directory.endswith("my project") for call in outcome.calls)
    assert [bool(call.environment) for call in outcome.calls[:2]] == [False, False]
    assert all(call.environment.endswith(r".venv\Scripts\..") for call in outcome.calls[2:])
    assert "did not start" not in outcome.said


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_py_launcher_is_preferred(project: Project, launcher: str) -> None:
    project.install("py.exe")
    project.make_environment()
    outcome = project.run(launcher, "--no-pause")

    assert [call.arguments for call in outcome.calls if call.program == "py"] == [
        "-3 --version",
        r"-3 scripts\environment.py",
    ]
    assert outcome.code == 0


def test_a_py_launcher_without_python_3_is_passed_over(project: Project) -> None:
    project.install("py.exe")
    project.make_environment()
    outcome = project.run("start_backend.bat", "--no-pause", exits="-3=103;")

    assert outcome.arguments[0] == "-3 --version"
    assert outcome.arguments[1:] == ["--version", r"scripts\environment.py", "-m backend.app"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_without_python_it_says_where_to_get_it(project: Project, launcher: str) -> None:
    (project.programs / "python.exe").unlink()
    outcome = project.run(launcher, "--no-pause")

    assert outcome.code == 1
    assert "https://www.python.org/downloads/" in outcome.said
    assert "did not start" in outcome.said
    assert outcome.calls == []


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_failed_install_starts_nothing(project: Project, launcher: str) -> None:
    project.make_environment()
    outcome = project.run(launcher, "--no-pause", exits="environment.py=1;")

    assert outcome.code == 1
    assert outcome.arguments[-1] == r"scripts\environment.py"
    assert "did not start" in outcome.said


def test_an_environment_that_cannot_be_activated_is_named(project: Project) -> None:
    outcome = project.run("start_backend.bat", "--no-pause")

    assert outcome.code == 1
    assert "Delete the folder .venv" in outcome.said


@pytest.mark.parametrize("launcher", ["start_gradio.bat", "start_streamlit.bat"])
def test_a_page_does_not_start_without_the_backend(project: Project, launcher: str) -> None:
    project.make_environment()
    outcome = project.run(launcher, "--no-pause", exits="check_backend=1;")

    assert outcome.code == 1
    assert outcome.arguments[-1] == r"scripts\check_backend.py"
    assert "did not start" in outcome.said


@pytest.mark.parametrize("code", [1, 3])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_programs_exit_code_comes_back(project: Project, launcher: str, code: int) -> None:
    project.make_environment()
    program = COMMANDS[launcher][-1].split(" ")[-1 if launcher == "start_backend.bat" else 0]
    outcome = project.run(launcher, "--no-pause", exits=f"{program}={code};")

    assert outcome.code == code
    assert "stopped with an error" in outcome.said


def test_a_crash_with_a_negative_code_counts_as_an_error(project: Project) -> None:
    project.make_environment()
    outcome = project.run("start_backend.bat", "--no-pause", exits="backend.app=-1073741819;")

    assert outcome.code != 0
    assert "stopped with an error" in outcome.said


def test_a_missing_env_file_is_mentioned_and_a_present_one_is_not(project: Project) -> None:
    project.make_environment()
    assert ".env.example lists them all" in project.run("start_backend.bat", "--no-pause").said
    (project.root / ".env").write_text("PORT=8000\n", encoding="utf-8")
    assert ".env.example" not in project.run("start_backend.bat", "--no-pause").said


@pytest.mark.parametrize("exits", ["", "environment.py=1;"])
def test_a_double_clicked_window_waits_for_a_key(project: Project, exits: str) -> None:
    project.make_environment()
    assert "ress any key" in project.run("start_backend.bat", exits=exits, keys="\r\n").said
    assert "ress any key" not in project.run("start_backend.bat", "--no-pause", exits=exits).said
