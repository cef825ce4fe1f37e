"""The official package, measured in its own environment in the same call."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ORACLE = ROOT / "tests" / "parity" / "bench_oracle.py"
TIMEOUT_S = 1800


def measure_reference(
    python: Path, job: dict[str, Any], packages: Path | None = None
) -> dict[str, Any]:
    """Run ``tests/parity/bench_oracle.py`` with ``python``; return its figures.

    Args:
        python: An interpreter with PyTorch.
        job: See ``bench_oracle.py``.
        packages: Folder with the official package and what else ``python`` lacks.

    Raises:
        RuntimeError: It failed; the message is its own.
    """
    paths = [ROOT] if packages is None else [ROOT, packages.resolve()]
    with tempfile.TemporaryDirectory() as folder:
        job_path, result_path = Path(folder) / "job.json", Path(folder) / "result.json"
        job_path.write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run(
            [str(python), str(ORACLE), str(job_path), str(result_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        )
        if done.returncode:
            raise RuntimeError(f"the official package failed:\n{done.stderr[-3000:]}")
        return json.loads(result_path.read_text(encoding="utf-8"))


def ratios(reference: dict[str, Any], run: dict[str, Any]) -> dict[str, float]:
    """How many times as long the official package takes, by figure."""
    pairs = {
        "decode_step": (reference["frame_ms"], run["decode_step_ms"].get("1")),
        "encode_10s": (reference.get("encode_10s_ms"), run["encode_10s_ms"]),
        "decode_10s": (reference.get("decode_10s_ms"), run["decode_10s_ms"]),
        "prefill": (reference["prefill_ms"], run.get("prefill_ms")),
    }
    return {
        name: round(theirs / ours, 2) for name, (theirs, ours) in pairs.items() if theirs and ours
    }
