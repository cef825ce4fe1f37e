"""Time the official package on any device. For its own environment; see ``scripts/benchmark.py``.

    <its python> tests/parity/bench_oracle.py JOB.json RESULT.json

The job has ``directory`` (official form), ``device``, ``dtype``, ``compile``, ``threads``,
``prompt_positions``, ``steps`` and ``codec`` (whether to time S1-mini's, with random weights).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from tests.parity import reference_stubs  # noqa: F401  (must come before fish_speech)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHORT = 10
LEGAL_GAIN = 20.0
CODEC_SECONDS = 10.0
REPEATS = 5


def seconds(device: str, work: Any) -> float:
    """From an idle device to an idle device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def keep_speaking(model: Any) -> None:
    """Make every draw a semantic token: with random weights text tokens and ends are drawn too.

    Their head rows become zero and the others large; the work per frame stays the same.
    """
    begin, end = model.tokenizer.semantic_begin_id, model.tokenizer.semantic_end_id
    weight = (model.embeddings if model.config.tie_word_embeddings else model.output).weight
    with torch.inference_mode():
        legal = weight[begin : end + 1] * LEGAL_GAIN
        weight.zero_()
        weight[begin : end + 1] = legal


def time_frames(job: dict[str, Any]) -> dict[str, Any]:
    """Time of one more frame, and of a prompt with its first frames."""
    from fish_speech.models.text2semantic import inference  # type: ignore[import-not-found]

    device = job["device"]
    model, decode_one_token = inference.init_model(
        job["directory"], device, DTYPES[job["dtype"]], compile=job["compile"]
    )
    keep_speaking(model)
    rows = torch.zeros(1 + model.config.num_codebooks, job["prompt_positions"], dtype=torch.int32)
    rows[0] = 97 + torch.arange(rows.shape[1]) % 26

    def speak(num_frames: int) -> int:
        with torch.inference_mode():
            sequence = inference.generate(
                model=model,
                prompt=rows.to(device),
                max_new_tokens=num_frames,
                audio_masks=None,
                audio_parts=None,
                decode_one_token=decode_one_token,
                temperature=0.8,
                top_p=0.8,
                repetition_penalty=1.1,
            )
        return sequence.shape[1] - rows.shape[1]

    compile_s = seconds(device, lambda: speak(SHORT))
    counts: list[int] = []
    short_s = seconds(device, lambda: counts.append(speak(SHORT)))
    long_s = seconds(device, lambda: counts.append(speak(SHORT + job["steps"])))
    frame_s = (long_s - short_s) / (counts[1] - counts[0])
    return {
        "frame_ms": frame_s * 1e3,
        "prefill_ms": (short_s - counts[0] * frame_s) * 1e3,
        "first_call_s": compile_s,
        "memory_bytes": _peak_bytes(device),
    }


def time_codec(device: str) -> dict[str, Any]:
    """Encode and decode ten seconds in float32."""
    import fish_speech  # type: ignore[import-not-found]
    from hydra.utils import instantiate  # type: ignore[import-not-found]
    from omegaconf import OmegaConf  # type: ignore[import-not-found]

    folder = Path(next(iter(fish_speech.__path__)))
    codec = instantiate(OmegaConf.load(folder / "configs/modded_dac_vq.yaml")).eval().to(device)
    samples = torch.zeros(1, 1, int(CODEC_SECONDS * codec.sample_rate), device=device)
    with torch.inference_mode():
        codes, _ = codec.encode(samples)
        lengths = torch.tensor([codes.shape[-1]], device=device)
        times = {
            "encode_10s_ms": lambda: codec.encode(samples),
            "decode_10s_ms": lambda: codec.decode(codes, lengths),
        }
        return {
            name: median([seconds(device, work) for _ in range(REPEATS)]) * 1e3
            for name, work in times.items()
        }


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Do what the job says."""
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    figures = time_frames(job)
    if job["codec"]:
        try:
            figures |= time_codec(job["device"])
        except Exception as error:  # noqa: BLE001 - what was measured before is worth keeping
            figures["codec_error"] = f"{type(error).__name__}: {error}"
    return {"torch": torch.__version__, "compiled": job["compile"], **figures}


def _peak_bytes(device: str) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(run(job)), encoding="utf-8")
