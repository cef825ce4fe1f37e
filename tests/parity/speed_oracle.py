"""Time the official package. For the reference environment; see ``scripts/measure_speech.py``.

    <its python> tests/parity/speed_oracle.py JOB.json RESULT.pt

The job is a ``generate`` task of ``dual_ar_oracle`` with ``short`` and ``long`` numbers of frames,
and ``threads``. The result: ``frame_s``, the time of one more frame (the difference of the two, so
that loading, allocation and the prompt drop out), and ``codes``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from tests.parity import dual_ar_oracle


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Do what the job says."""
    torch.set_num_threads(job["threads"])
    model = dual_ar_oracle._model(job)
    dual_ar_oracle._model = lambda _task: model
    times: dict[int, float] = {}
    num_frames: dict[int, int] = {}
    codes = torch.empty(0)
    for most in (job["short"], job["short"], job["long"]):  # the first one warms up
        started = time.perf_counter()
        codes = dual_ar_oracle.generate({**job, "max_new_tokens": most})
        times[most], num_frames[most] = time.perf_counter() - started, codes.shape[1]
    more_s = times[job["long"]] - times[job["short"]]
    return {
        "frame_s": more_s / (num_frames[job["long"]] - num_frames[job["short"]]),
        "codes": codes,
    }


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.save(run(job), sys.argv[2])
