"""Run code against the official package, which lives in an environment of its own.

The oracle scripts beside this file import ``fish_speech`` and are started with the reference
environment's Python; they write what they saw to a file that the tests read.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT_VARIABLE = "FISH_REFERENCE_PYTHON"
ORACLE_TIMEOUT_S = 900


def reference_python() -> Path:
    """Interpreter of the reference environment.

    Raises:
        FileNotFoundError: There is none; the message says how to make it.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    candidates = [Path(named)] if named else _default_interpreters()
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"no reference environment at {candidates[0]}: run python scripts/make_reference_env.py, "
        f"or set {ENVIRONMENT_VARIABLE} to the Python of one"
    )


def run_oracle(script: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run ``tests/parity/<script>`` with the official package.

    Args:
        script: File name; it is called with the paths of a job (JSON) and of a result.
        job: What to compute; JSON values.
        folder: For both files.

    Returns:
        What the script stored with ``torch.save``: tensors and plain values.
    """
    job_path, result_path = folder / "job.json", folder / "result.pt"
    job_path.write_text(json.dumps(job), encoding="utf-8")
    command = [str(reference_python()), f"tests/parity/{script}", str(job_path), str(result_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=ORACLE_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{script} failed:\n{done.stderr[-4000:]}")
    return torch.load(result_path, weights_only=True)


def _default_interpreters() -> list[Path]:
    folder = ROOT / ".venv-ref"
    return [folder / "bin" / "python", folder / "Scripts" / "python.exe"]
