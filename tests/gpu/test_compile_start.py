"""On a card an engine finds its kernels made: ``python scripts/test.py --gpu``."""

# Triton is not there beside a CPU torch.
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import pytest

from backend.core.model_location import POCKET_DIR
from backend.opt_engine import OptimizedEngine
from scripts.bench.engine_settings import engine_settings

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("max_slots", [2, 20])
def test_what_was_compiled_ahead_is_all_that_a_start_needs(monkeypatch, quantization, max_slots):
    from triton import knobs

    made: list[str] = []

    def note(src: Any, **_: object) -> None:
        made.append(src.name)

    monkeypatch.setattr(knobs.compilation, "listener", note)
    settings = engine_settings(
        model="pocket", device="cuda", mixed_precision="bf16", quantization=quantization,
        max_slots=max_slots, max_seq_len=1024, compile_ahead=True,
    )  # fmt: skip
    engine = OptimizedEngine.load(settings, POCKET_DIR)
    before = list(made)
    engine.warm_up()
    while engine.prepare_one():
        pass
    engine.close()
    assert made[len(before) :] == []
