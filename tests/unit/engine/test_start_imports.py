"""What a start must not import: it would take longer than all the rest of a small model's start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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

AHEAD = """
import sys, torch
from contextlib import nullcontext
from pathlib import Path
from backend.core.settings import read_settings
from backend.engine.precision import Precision
from backend.engine.twins import codec_twin, dual_ar_twin
from backend.models.codec.config import S1_MINI
from backend.models.codec.fused.decoder import FusedDecoder
from backend.models.codec.fused.encoder import FusedEncoder
from backend.models.codec.fused.ops import TorchOps, rounded_to_tf32
from backend.models.config import DualARConfig
from backend.models.tokenizer import Tokenizer

class AskedOps:
    room = lambda self, shape, like: like.new_empty(shape)
    rounded = lambda self, x: rounded_to_tf32(x)
    compiling = lambda self: nullcontext(True)
    look_up = product = unit = depthwise = attend = sound = lambda *_, **__: asked.append(1)

asked, device, pocket = [], torch.device("cpu"), Path("backend/pocket")
tokenizer = Tokenizer.from_directory(pocket)
ids = (tokenizer.semantic_begin_id, tokenizer.num_semantic, tokenizer.im_end_id)
decoder = FusedDecoder(codec_twin(S1_MINI, torch.float16, "decode"), AskedOps())
decoder.compile_for([(5, 32), (1, 1)], decoder.new_pool(6))
FusedEncoder(codec_twin(S1_MINI, torch.float32, "encode"), AskedOps()).compile_for([(1, 256)])
for quantization in ("none", "int8", "nf4"):
    dual_ar_twin(
        read_settings(None, quantization=quantization),
        Precision(device, "bf16", torch.bfloat16, quantization),
        DualARConfig.from_file(pocket / "config.json"), S1_MINI, ids,
    )
assert asked
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
"""


@pytest.mark.parametrize("program", [START, AHEAD], ids=["start", "compiling_ahead"])
def test_a_start_imports_no_compiler(program):
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
