"""The dual-AR network at exactly S1-mini's sizes against the official package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.models.checkpoint import load_dual_ar
from backend.models.prompt import build_prompt
from backend.models.tokenizer import Tokenizer
from tests.parity.dual_ar_cases import SPOKEN, turns
from tests.parity.full_checkpoint import write_full_checkpoint
from tests.parity.reference import run_oracle
from tests.parity.speaking import GrowingStore, fast_logits, speak
from tests.parity.tiny_checkpoint import codes_like_noise

NUM_FRAMES = 4


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_s1_mini_sizes_give_the_official_logits_and_codes(tmp_path: Path) -> None:
    """Needs 12 GB of memory and 4 GB of disk."""
    directory = write_full_checkpoint(tmp_path / "model")
    rows = build_prompt(Tokenizer.from_directory(directory), SPOKEN, turns("cloned"), 10)
    frame = codes_like_noise("frame", 1)[:, 0].tolist()
    common = {"directory": str(directory), "dtype": "fp32", "rows": rows.tolist()}
    greedy = {"mode": "greedy", "temperature": 1.0, "top_p": 1.0, "max_new_tokens": NUM_FRAMES}
    tasks = [
        {**common, "task": "forward", "name": "forward", "codes": frame},
        {**common, **greedy, "task": "generate", "name": "greedy"},
    ]
    official = run_oracle("dual_ar_oracle.py", {"tasks": tasks}, tmp_path)

    model = load_dual_ar(directory, "cpu", torch.float32)
    with torch.inference_mode():
        hidden = model.slow(rows[None], torch.arange(rows.shape[1])[None], GrowingStore())
        ours = {
            "hidden": hidden[0],
            "logits": model.token_logits(hidden[0, -1]),
            "projected": model.fast_input(hidden[0, -1]),
            "fast_logits": fast_logits(model, hidden[:, -1], frame),
        }
    errors = {
        name: float((ours[name] - values).norm() / values.norm())
        for name, values in official["forward"].items()
    }
    assert max(errors.values()) <= 1e-5, errors
    assert torch.equal(speak(model, rows, NUM_FRAMES), official["greedy"][1:])
