from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from backend.core.errors import ConfigurationError
from scripts import environment
from scripts.environment import (
    TorchWay,
    check_python,
    digest_of,
    ensure_environment,
    environment_python,
    included_files,
    is_torch_wanted,
    make_venv,
    read_stamps,
    run_pip,
    torch_ways,
)

ROOT = Path(__file__).resolve().parents[3]
BEFORE_THE_ENVIRONMENT = ("environment", "start", "test", "dev", "say", "processes", "local_http")
"""Scripts that run on a bare Python, with the module of errors that they use."""


class FakePip:
    """Stands in for ``run_pip``: remembers the calls, fails on those that contain a text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_on: str = "nothing") -> None:
        self.calls: list[list[str]] = []
        self._fails_on = fails_on
        monkeypatch.setattr(environment, "run_pip", self)

    def __call__(self, python: Path, arguments: list[str], log: Path) -> None:
        self.calls.append(arguments)
        if any(self._fails_on in argument for argument in arguments):
            raise ConfigurationError("ordered by the test")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "requirements.txt").write_text("numpy>=2\n", encoding="utf-8")
    (tmp_path / "requirements-dev.txt").write_text(
        "-r requirements.txt  # the service\npytest\n", encoding="utf-8"
    )
    return tmp_path


@pytest.fixture
def no_torch_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "install_torch", lambda python, log: None)


@pytest.fixture
def this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(venv: Path) -> Path:
        venv.mkdir(exist_ok=True)
        return Path(sys.executable)

    monkeypatch.setattr(environment, "make_venv", made)


@pytest.mark.parametrize("version", [(3, 10), (3, 8), (2, 7)])
def test_an_old_python_is_refused_with_a_remedy(version: tuple[int, int]) -> None:
    with pytest.raises(ConfigurationError, match=r"3\.11 or newer is needed.*python\.org"):
        check_python(version)


def test_a_new_python_is_accepted() -> None:
    check_python((3, 11))
    check_python((3, 14))


@pytest.mark.parametrize("name", [*BEFORE_THE_ENVIRONMENT, "download_model"])
def test_what_runs_first_is_readable_by_an_old_python(name: str) -> None:
    source = (ROOT / "scripts" / f"{name}.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))
    errors = (ROOT / "backend/core/errors.py").read_text(encoding="utf-8")
    ast.parse(errors, feature_version=(3, 8))


@pytest.mark.parametrize("name", [*BEFORE_THE_ENVIRONMENT, "download_model"])
def test_what_runs_first_needs_only_the_standard_library(name: str) -> None:
    # -I -S: no site-packages, as on a machine where nothing is installed.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import scripts.{name}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("system", "nvidia", "indexes"),
    [
        ("Linux", False, [environment.CPU_INDEX, None]),
        ("Linux", True, []),
        ("Windows", True, [environment.CUDA_INDEX, None]),
        ("Windows", False, []),
        ("Darwin", False, []),
    ],
)
def test_torch_comes_from_where_the_machine_needs_it(
    system: str, nvidia: bool, indexes: list[str | None]
) -> None:
    ways = torch_ways(system, nvidia)
    found = [way.arguments[-1] if way.arguments else None for way in ways]
    assert found == indexes
    for way in ways[:-1]:
        assert "--retries" in way.arguments, "an index that is out of reach must not cost minutes"


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        (None, True),
        ("2.7.1", True),
        ("2.8.0+cu128", False),
        ("2.13.0+cpu", False),
        ("2.14.0", True),
        ("3.0.0", True),
    ],
)
def test_a_torch_in_range_is_kept(version: str | None, wanted: bool) -> None:
    assert is_torch_wanted(version) is wanted


def test_the_torch_range_is_that_of_requirements_txt() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    line = re.search(r"^torch>=(\d+)\.(\d+),<=(\d+)\.(\d+)\.0$", text, re.MULTILINE)
    assert line is not None
    numbers = [int(part) for part in line.groups()]
    assert (tuple(numbers[:2]), tuple(numbers[2:])) == environment.TORCH_VERSIONS
    assert f"torch=={numbers[2]}.{numbers[3]}.0" == environment.TORCH


def test_the_next_way_to_torch_is_tried_when_one_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pip = FakePip(monkeypatch, fails_on="first.example")
    ways = [TorchWay("one", ("--index-url", "https://first.example")), TorchWay("two", ())]
    monkeypatch.setattr(environment, "torch_ways", lambda system, nvidia: ways)
    monkeypatch.setattr(environment, "is_torch_wanted", lambda version: True)
    environment.install_torch(Path(sys.executable), tmp_path / "log")

    assert [len(call) for call in pip.calls] == [3, 1]
    assert capsys.readouterr().out.splitlines() == [
        "  torch: one",
        "  torch: not to be had that way",
        "  torch: two",
    ]


def test_when_no_way_to_torch_works_the_last_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    FakePip(monkeypatch, fails_on="torch")
    monkeypatch.setattr(environment, "torch_ways", lambda system, nvidia: [TorchWay("one", ())])
    monkeypatch.setattr(environment, "is_torch_wanted", lambda version: True)
    with pytest.raises(ConfigurationError, match="ordered by the test"):
        environment.install_torch(Path(sys.executable), tmp_path / "log")


@pytest.mark.usefixtures("this_python", "no_torch_here")
def test_an_environment_that_is_current_is_not_installed_again(
    monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    pip = FakePip(monkeypatch)
    for _ in range(2):
        ensure_environment(project / "requirements.txt", project / ".venv")
    assert pip.calls == [["-r", str(project / "requirements.txt")]]


@pytest.mark.usefixtures("this_python", "no_torch_here")
def test_changed_requirements_are_installed(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    pip = FakePip(monkeypatch)
    ensure_environment(project / "requirements-dev.txt", project / ".venv")
    (project / "requirements.txt").write_text("numpy>=3\n", encoding="utf-8")
    ensure_environment(project / "requirements-dev.txt", project / ".venv")
    assert len(pip.calls) == 2


@pytest.mark.usefixtures("this_python", "no_torch_here")
def test_the_development_set_contains_the_service_set(
    monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    pip = FakePip(monkeypatch)
    ensure_environment(project / "requirements-dev.txt", project / ".venv")
    ensure_environment(project / "requirements.txt", project / ".venv")
    assert len(pip.calls) == 1


@pytest.mark.usefixtures("this_python", "no_torch_here")
def test_a_failed_install_leaves_no_stamp(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    FakePip(monkeypatch, fails_on="-r")
    with pytest.raises(ConfigurationError):
        ensure_environment(project / "requirements.txt", project / ".venv")
    assert read_stamps(project / ".venv") == {}


def test_another_python_version_makes_a_stamp_stale(project: Path) -> None:
    path = project / "requirements.txt"
    assert digest_of(path, (3, 11)) == digest_of(path, (3, 11))
    assert digest_of(path, (3, 11)) != digest_of(path, (3, 12))


def test_included_requirements_are_found(project: Path) -> None:
    names = [path.name for path in included_files(project / "requirements-dev.txt")]
    assert names == ["requirements-dev.txt", "requirements.txt"]


def test_a_missing_requirements_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.txt is missing"):
        included_files(tmp_path / "nothing.txt")


def test_the_python_of_an_environment_is_where_each_system_puts_it() -> None:
    assert environment_python(Path("v"), "Windows") == Path("v/Scripts/python.exe")
    assert environment_python(Path("v"), "Linux") == Path("v/bin/python")


def test_a_broken_environment_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = tmp_path / ".venv"
    broken = environment_python(venv)
    broken.parent.mkdir(parents=True)
    broken.write_text("not a program", encoding="utf-8")
    broken.chmod(0o755)
    # Without pip it takes a fraction of a second instead of several.
    real_run = subprocess.run

    def run_without_pip(command: list[str], **options: object) -> object:
        if "venv" in command:
            command = [*command, "--without-pip"]
        return real_run(command, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(environment.subprocess, "run", run_without_pip)
    python = make_venv(venv)

    assert real_run([python, "-c", "pass"], check=False).returncode == 0
    assert "again" in capsys.readouterr().out
    assert make_venv(venv) == python
    assert capsys.readouterr().out == "", "a working environment is left alone"


def test_an_environment_that_cannot_be_made_names_the_package_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.sys, "executable", "/bin/false")
    with pytest.raises(ConfigurationError, match="python3-venv"):
        make_venv(tmp_path / ".venv")


def test_a_failed_pip_shows_its_last_lines_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("=nonsense=\n", encoding="utf-8")
    log = tmp_path / "install.log"
    with pytest.raises(ConfigurationError) as caught:
        run_pip(Path(sys.executable), ["-r", str(tmp_path / "bad.txt")], log)

    message = str(caught.value)
    assert "nonsense" in message
    assert "exit code" in message
    assert "What to do" in message
    assert str(log) in message
    assert "nonsense" in log.read_text(encoding="utf-8")


def test_large_downloads_and_the_install_step_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for line in (
        "Collecting torch",
        "  Downloading https://host/x/torch-2.13.0-cp311.whl (192.1 MB)",
        "Downloading gradio-6.31.0-py3-none-any.whl (31 MB)",
        "Downloading idna-3.10-py3-none-any.whl.metadata (5 kB)",
        "Downloading av-18.whl (19.9 MB)",
        "Downloading nvidia_cublas.whl (1.2 GB)",
        "Installing collected packages: a, b, c",
    ):
        environment._show_progress(line)
    assert capsys.readouterr().out.splitlines() == [
        "  downloading torch-2.13.0-cp311.whl (192 MB)",
        "  downloading gradio-6.31.0-py3-none-any.whl (31 MB)",
        "  downloading nvidia_cublas.whl (1 GB)",
        "  installing 3 packages",
    ]


def test_the_command_line_ends_with_1_and_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["environment.py", "no-such-file.txt"])
    assert environment.main() == 1
    assert "no-such-file.txt is missing" in capsys.readouterr().err
