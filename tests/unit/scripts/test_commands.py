"""The small commands: test, dev, check_backend, serve_page."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import check_backend, dev, serve_page
from scripts import test as test_command
from scripts.processes import free_port
from tests.unit.scripts.test_start import HealthServer

ROOT = Path(__file__).resolve().parents[3]
PYTHON = Path(sys.executable)


@pytest.mark.parametrize(
    ("given", "forwarded"),
    [
        (["--browser"], ["-m", "browser"]),
        (["--browser", "--wine", "-x"], ["-m", "browser or wine", "-x"]),
        (["--ray"], ["-m", "ray"]),
        (["--all"], ["-m", ""]),
        (["-m", "load", "tests/unit"], ["-m", "load", "tests/unit"]),
    ],
)
def test_flags_choose_suites_and_the_rest_goes_to_pytest(
    given: list[str], forwarded: list[str]
) -> None:
    assert test_command.pytest_arguments(given) == (forwarded, True)


def test_no_install_is_not_forwarded() -> None:
    arguments, install = test_command.pytest_arguments(["--no-install", "-q"])
    assert arguments[-1] == "-q"
    assert "--no-install" not in arguments
    assert not install


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give this machine so many cores."""

    def have(num_cores: int) -> None:
        taken = set(range(num_cores))
        monkeypatch.setattr("os.sched_getaffinity", lambda _: taken, raising=False)
        monkeypatch.setattr("os.cpu_count", lambda: num_cores)

    return have


@pytest.mark.parametrize("given", [[], ["-x"], ["-k", "cache"], ["tests/unit"], ["-n", "0"]])
def test_the_fast_tests_are_shared_by_as_many_processes_as_there_are_cores(
    cores: Callable[[int], None], given: list[str]
) -> None:
    cores(2)
    shared = ["-n", "2", "--dist", "worksteal"]
    assert test_command.pytest_arguments(given) == ([*shared, *given], True)


def test_many_cores_do_not_fill_the_memory_and_one_is_not_shared(
    cores: Callable[[int], None],
) -> None:
    cores(64)
    assert test_command.worker_arguments([])[:2] == ["-n", "4"]
    cores(1)
    assert test_command.worker_arguments([]) == []


@pytest.mark.parametrize(
    "given",
    [
        ["--gpu"],
        ["--all"],
        ["-m", "slow"],
        ["--pdb"],
        ["-s"],
        ["--log-cli-level=INFO"],
        ["-p", "no:xdist"],
        ["tests/no_such_folder"],
        ["tests/unit/test_version.py"],
        ["tests/unit/test_layering.py::test_x"],
    ],
)
def test_other_suites_single_files_and_watched_runs_have_one_process(
    cores: Callable[[int], None], given: list[str]
) -> None:
    cores(2)
    assert "-n" not in test_command.pytest_arguments(given)[0]


def test_a_python_without_the_sharing_runs_the_tests_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert test_command.pytest_arguments(["--no-install"]) == ([], False)


def test_there_is_a_flag_for_each_marker_that_the_plain_run_leaves_out() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    markers = {line.split(":")[0] for line in config["tool"]["pytest"]["ini_options"]["markers"]}
    assert markers == set(test_command.SUITES)


def test_the_exit_code_is_pytests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # it takes seconds
    plain = tmp_path / "pytest.ini"
    plain.write_text("[pytest]\n", encoding="utf-8")
    failing = tmp_path / "test_failing.py"
    failing.write_text("def test_x(): assert False\n", encoding="utf-8")
    given = ["--no-install", "-q", "-p", "no:cacheprovider", "-c", str(plain)]
    assert test_command.main([*given, str(failing)]) == 1
    assert test_command.main([*given, str(tmp_path / "nothing_here.py")]) == 4


def test_every_check_runs_and_the_failed_ones_are_named(
    capfd: pytest.CaptureFixture[str],
) -> None:
    steps = {"good": ("this",), "bad": ("no_such_module",), "last": ("this",)}
    assert dev.run_steps(PYTHON, steps) == ["bad"]
    out = capfd.readouterr().out
    assert "$ python -m no_such_module" in out
    assert "bad: FAILED with exit code 1" in out
    assert "last: ok" in out


def test_the_check_covers_lint_format_types_layering_and_tests() -> None:
    assert list({**dev.CHECKS, **dev.TESTS}) == ["lint", "format", "types", "layering", "tests"]


def test_a_backend_that_answers_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    with HealthServer((200, {"status": "ready"})) as server:
        url = server.url.removesuffix("/health/ready")
        assert check_backend.main(["--url", url + "/"]) == 0
    assert f"answers at {url}" in capsys.readouterr().out


def test_a_missing_backend_is_reported_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_backend.main(["--url", f"http://127.0.0.1:{free_port()}"]) == 1
    message = capsys.readouterr().err
    assert "no backend answers" in message
    assert "start_backend.bat" in message
    assert "UI_BACKEND_URL" in message


def test_another_program_on_the_port_is_not_taken_for_the_backend(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with HealthServer((404, {})) as server:
        url = server.url.removesuffix("/health/ready")
        assert check_backend.main(["--url", url]) == 1
    assert "no healthy backend (status 404" in capsys.readouterr().err


def test_the_address_to_check_comes_from_the_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("UI_BACKEND_URL", url)
    assert check_backend.main([]) == 1
    assert url in capsys.readouterr().err


def test_a_malformed_setting_is_reported_by_the_launchers_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UI_BACKEND_URL", "nonsense")
    assert check_backend.main([]) == 1
    assert serve_page.main(["gradio"]) == 1
    assert capsys.readouterr().err.count("UI_BACKEND_URL='nonsense'") == 2


def test_a_page_whose_port_is_taken_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with HealthServer((200, {})) as server:
        monkeypatch.setenv("UI_STREAMLIT_PORT", server.url.split(":")[2].split("/")[0])
        assert serve_page.main(["streamlit"]) == 1
    assert "UI_STREAMLIT_PORT in .env" in capsys.readouterr().err
