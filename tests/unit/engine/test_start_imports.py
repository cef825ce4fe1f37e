"""What a start must not import: it would take longer than all the rest of a small model's start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
START = """
import sys, torch
from pathlib import Path
from backend.core.settings import read_settings
from backend.opt_engine import OptimizedEngine
from backend.engine.memory import _codec_bytes
from backend.models.codec.config import S1_MINI

_codec_bytes(S1_MINI, torch.float16)
settings = read_settings(None, model="pocket", device="cpu", max_slots=1, max_seq_len=256)
OptimizedEngine.load(settings, Path("backend/pocket")).close()
print([name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules])
"""


def test_a_start_imports_no_compiler():
    done = subprocess.run(
        [sys.executable, "-c", START], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
