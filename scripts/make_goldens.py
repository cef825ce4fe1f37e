"""Ask the official package for the dual-AR answers that the default test run compares with.

    python scripts/make_reference_env.py      # once
    python scripts/make_goldens.py

Writes ``tests/data/dual_ar_goldens.npz``. The last line on stdout is JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tests.parity.dual_ar_cases import oracle_tasks, write_checkpoints
from tests.parity.goldens import DUAL_AR_GOLDENS, pack
from tests.parity.reference import run_oracle


def main() -> None:
    """Make the file anew."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = oracle_tasks(write_checkpoints(folder))
        results = run_oracle("dual_ar_oracle.py", {"tasks": tasks}, folder)
    arrays = pack(results)
    DUAL_AR_GOLDENS.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(DUAL_AR_GOLDENS, **arrays)  # type: ignore[arg-type]
    size = DUAL_AR_GOLDENS.stat().st_size
    print(json.dumps({"file": DUAL_AR_GOLDENS.name, "arrays": len(arrays), "bytes": size}))


if __name__ == "__main__":
    main()
