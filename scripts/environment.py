"""Make the project's virtual environment with nothing but the standard library.

As a program it makes ``.venv`` and installs one requirements file into it:

    python scripts/environment.py [requirements.txt]

What is installed is written down in ``.venv/installed.json``, so a second run takes no time. This
file must also be readable by an old Python, so that it can say that the Python is too old.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.core.errors import ConfigurationError

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CLUSTER_VENV = ROOT / ".venv-cluster"
OLDEST_PYTHON = (3, 11)

TORCH = "torch==2.13.0"
TORCH_VERSIONS = ((2, 8), (2, 13))
"""Oldest and newest minor version that requirements.txt keeps when it is there already."""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_INDEX = "https://download.pytorch.org/whl/cu130"


@dataclass(frozen=True)
class TorchWay:
    """One way to get torch: what it gives, and pip's arguments."""

    gives: str
    arguments: tuple[str, ...]


def ensure_environment(requirements: Path, venv: Path = VENV) -> Path:
    """Make the environment and install ``requirements``, or see that this is done already.

    Returns:
        The environment's Python.

    Raises:
        ConfigurationError: It cannot be made; the message says why and what to do.
    """
    check_python(sys.version_info[:2])
    python = make_venv(venv)
    files = included_files(requirements)
    digests = {path.name: digest_of(path, _python_version(python)) for path in files}
    if digests.items() <= read_stamps(venv).items():
        return python
    started = time.monotonic()
    print(f"Installing {requirements.name} into {venv.name} (first time: some minutes, 2 GB)")
    install_torch(python, venv / "install.log")
    run_pip(python, ["-r", str(requirements)], venv / "install.log")
    stamps = {**read_stamps(venv), **digests}
    (venv / "installed.json").write_text(json.dumps(stamps, indent=1), encoding="utf-8")
    print(f"Installed in {time.monotonic() - started:.0f} s")
    return python


def check_python(version: tuple[int, ...]) -> None:
    """Refuse a Python that the dependencies do not support."""
    if version < OLDEST_PYTHON:
        raise ConfigurationError(
            f"this is Python {version[0]}.{version[1]}, but 3.11 or newer is needed: install it "
            "from https://www.python.org/downloads/ or your system's packages, and start this "
            "again with it, for example: python3.11 scripts/start.py"
        )


def environment_python(venv: Path, system: str = platform.system()) -> Path:
    """Give the path of the Python inside an environment."""
    return venv / ("Scripts/python.exe" if system == "Windows" else "bin/python")


def make_venv(venv: Path) -> Path:
    """Make the environment unless a working one is there; give its Python."""
    python = environment_python(venv)
    if _python_version(python) >= OLDEST_PYTHON:
        return python
    print(f"Making the environment {venv.name}" + (" again" if venv.exists() else ""))
    command = [sys.executable, "-m", "venv", "--clear", str(venv)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0 or _python_version(python) < OLDEST_PYTHON:
        raise ConfigurationError(
            f"{' '.join(command)} failed:\n{(made.stdout + made.stderr).strip()}\n"
            "On Debian and Ubuntu install the package python3-venv, then run this again."
        )
    return python


def _python_version(python: Path) -> tuple[int, ...]:
    """Ask a Python for its version; ``(0,)`` when it does not run."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return (0,)
    return tuple(int(part) for part in asked.stdout.split())


def included_files(requirements: Path) -> list[Path]:
    """Give a requirements file and, in order, those that it takes in with ``-r``."""
    if not requirements.is_file():
        raise ConfigurationError(f"{requirements} is missing: get the project's files again")
    files = [requirements]
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            name = line[3:].split("#")[0].strip()
            files += included_files(requirements.parent / name)
    return files


def digest_of(requirements: Path, python_version: tuple[int, ...]) -> str:
    """Name the state that an installed requirements file stands for."""
    state = requirements.read_bytes() + repr(python_version).encode()
    return hashlib.sha256(state).hexdigest()


def read_stamps(venv: Path) -> dict[str, str]:
    """Give what has been installed: digests by the name of the requirements file."""
    stamp = venv / "installed.json"
    return json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() else {}


def has_nvidia_driver() -> bool:
    """Tell whether an NVIDIA driver is installed and works."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def torch_ways(system: str, nvidia: bool) -> list[TorchWay]:
    """Choose where torch comes from, best first. None at all: requirements.txt does it right.

    PyPI's wheel is the CUDA build on Linux and the CPU build on Windows and macOS.
    """
    # --no-deps: those indexes hold torch itself; what it needs comes with requirements.txt.
    impatient = ("--no-deps", "--timeout", "15", "--retries", "0", "--index-url")
    if system == "Linux" and not nvidia:
        return [
            TorchWay("the CPU build (no NVIDIA driver found)", (*impatient, CPU_INDEX)),
            TorchWay("the build of the package index (may be the large CUDA build)", ()),
        ]
    if system == "Windows" and nvidia:
        return [
            TorchWay("the CUDA 13.0 build (NVIDIA driver found)", (*impatient, CUDA_INDEX)),
            TorchWay("the CPU build, because the CUDA build cannot be fetched", ()),
        ]
    return []


def is_torch_wanted(version: str | None) -> bool:
    """Tell whether torch has to be installed: it is absent or outside the supported range."""
    if version is None:
        return True
    minor = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    return not TORCH_VERSIONS[0] <= minor <= TORCH_VERSIONS[1]


def install_torch(python: Path, log: Path) -> None:
    """Install the build of torch that fits this machine; keep one that is there."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if not is_torch_wanted(asked.stdout.strip() if asked.returncode == 0 else None):
        print(f"  torch {asked.stdout.strip()} is there and is kept")
        return
    ways = torch_ways(platform.system(), has_nvidia_driver())
    for way in ways[:-1]:
        print(f"  torch: {way.gives}")
        try:
            run_pip(python, [TORCH, *way.arguments], log)
        except ConfigurationError:
            print("  torch: not to be had that way")
        else:
            return
    for way in ways[-1:]:
        print(f"  torch: {way.gives}")
        run_pip(python, [TORCH, *way.arguments], log)


def run_pip(python: Path, arguments: list[str], log: Path) -> None:
    """Run ``pip install``; everything it says goes to ``log``, a short form to the console.

    Raises:
        ConfigurationError: pip failed; the message holds its last lines.
    """
    command = [str(python), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", *arguments]
    tail: deque[str] = deque(maxlen=12)
    with log.open("a", encoding="utf-8") as file:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        with pip:
            assert pip.stdout is not None
            for line in pip.stdout:
                file.write(line)
                tail.append(line.rstrip())
                _show_progress(line)
    if pip.returncode != 0:
        raise ConfigurationError(
            "\n    ".join([f"pip stopped with exit code {pip.returncode}:", *tail])
            + f"\nThe whole log is {log}.\nWhat to do: look for a missing network connection or "
            "a full disk (3 GB are needed) above, mend it, and run this again."
        )


def _show_progress(line: str) -> None:
    """Show downloads of 20 MB and more, and the moment of installing."""
    download = re.search(r"Downloading (?:\S*/)?(\S+) \((\d+)(?:\.\d+)? ([MG])B\)", line)
    if download and (download[3] == "G" or int(download[2]) >= 20):
        print(f"  downloading {download[1]} ({download[2]} {download[3]}B)", flush=True)
    elif line.startswith("Installing collected packages"):
        print(f"  installing {line.count(',') + 1} packages", flush=True)


def main() -> int:
    """Make the environment from the command line."""
    parser = argparse.ArgumentParser(description="Make .venv and install one requirements file.")
    parser.add_argument("requirements", nargs="?", default="requirements.txt")
    try:
        ensure_environment(ROOT / parser.parse_args().requirements)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
