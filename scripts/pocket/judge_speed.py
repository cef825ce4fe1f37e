"""How fast the project's own engine speaks with a checkpoint on this machine's CPU."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from backend.opt_engine import OptimizedEngine

_TEXT = "The children ran down the hill to meet their father, who had been away for a year."
_RUNS = 5


def measure_speed(folder: Path, threads: int) -> dict[str, Any]:
    """Speak a sentence several times through the engine, prompt and codec included.

    ``x_realtime`` is audio seconds per second; ``cpu_s_per_audio_s`` counts processor time, which
    other work on the machine changes less.

    Args:
        folder: A model directory.
        threads: For the engine, as the setting ``CPU_THREADS``; the figures name what was used.
    """
    import torch

    from backend.core.settings import Settings
    from backend.opt_engine import OptimizedEngine

    engine = OptimizedEngine.load(Settings(device="cpu", cpu_threads=threads), folder)
    engine.warm_up()
    rates, costs = [], []
    for _ in range(_RUNS):
        began, cpu_began = time.perf_counter(), time.process_time()
        audio_s = _speak_once(engine, folder)
        rates.append(audio_s / (time.perf_counter() - began))
        costs.append((time.process_time() - cpu_began) / audio_s)
    engine.close()
    return {
        "x_realtime_median": round(float(np.median(rates)), 2),
        "x_realtime_best": round(max(rates), 2),
        "cpu_s_per_audio_s_median": round(float(np.median(costs)), 3),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _speak_once(engine: OptimizedEngine, folder: Path) -> float:
    """Audio seconds made."""
    from backend.core.contract import FrameChunk
    from backend.core.types import SamplingParams, Turn
    from backend.engine.model_files import read_sampling_defaults

    voice = json.loads((folder / "voices" / "ross.json").read_text(encoding="utf-8"))
    turn = Turn(voice["text"], np.array(voice["codes"], np.int32))
    sampling: SamplingParams = read_sampling_defaults(folder)
    slot = engine.prefill(_TEXT, [turn], sampling)
    frames: list[Any] = []
    num_samples = 0

    def sound(frames: list[Any]) -> int:
        [samples] = engine.decode_frames([FrameChunk(slot, np.stack(frames, 1))])
        return len(samples)

    for _ in range(500):
        (result,) = engine.decode_step([slot])
        if result.codes is None:
            break
        frames.append(result.codes)
        if len(frames) == 25:
            num_samples += sound(frames)
            frames = []
    if frames:
        num_samples += sound(frames)
    engine.release(slot)
    return num_samples / engine.info.sample_rate
