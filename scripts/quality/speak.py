"""Speak the held-out sentences with one setting, several at once, each with a seed of its own."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.core.contract import FrameChunk
from backend.core.types import Turn
from backend.opt_engine import OptimizedEngine
from scripts.bench.machine import machine, versions
from scripts.quality.takes import Takes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from backend.core.settings import Settings

MOST_SECONDS = 30.0
"""An endless take is cut there; it counts as it is."""
VOICES = "voices"


def read_turns(directory: Path) -> dict[str, Turn]:
    """The model's own voices by name."""
    turns: dict[str, Turn] = {}
    for path in sorted((directory / VOICES).glob("*.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        turns[values["name"]] = Turn(values["text"], np.array(values["codes"], dtype=np.int32))
    return turns


def speak(settings: Settings, directory: Path, texts: list[str]) -> Takes:
    """Speak ``texts``, the voices in turn, with the model's sampling and the seeds 0, 1, ...

    Raises:
        TTSError: The engine does not start or fails.
    """
    turns = read_turns(directory)
    names = [list(turns)[idx % len(turns)] for idx in range(len(texts))]
    engine = OptimizedEngine.load(settings, directory)
    try:
        codes = _speak_all(engine, texts, [turns[name] for name in names])
        facts = {
            "machine": machine(),
            "versions": versions(),
            "engine": {k: v for k, v in asdict(engine.info).items() if k in _TOLD},
        }
    finally:
        engine.close()
    return Takes(facts, texts, names, codes)


_TOLD = ("model", "revision", "device", "precision", "quantization", "notes")


def _speak_all(
    engine: OptimizedEngine, texts: list[str], turns: list[Turn]
) -> list[NDArray[np.int32]]:
    most = int(MOST_SECONDS * engine.info.frame_rate)
    waiting = list(range(len(texts)))[::-1]
    which: dict[int, int] = {}
    frames: list[list[NDArray[np.int32]]] = [[] for _ in texts]
    while waiting or which:
        while waiting and len(which) < engine.max_slots:
            idx = waiting.pop()
            sampling = replace(engine.info.sampling, seed=idx, max_new_tokens=most)
            which[engine.prefill(texts[idx], [turns[idx]], sampling)] = idx
        for result in engine.decode_step(list(which)):
            if result.codes is not None:
                frames[which[result.slot]].append(result.codes)
                continue
            del which[result.slot]
            engine.release(result.slot)
    return [np.stack(part, axis=1) for part in frames]


def sound_of(
    settings: Settings, directory: Path, codes: list[NDArray[np.int32]]
) -> tuple[list[NDArray[np.float32]], dict[str, Any]]:
    """Samples ``[S]`` of each text's codes, and what the engine tells of itself."""
    engine = OptimizedEngine.load(settings, directory)
    try:
        heard: list[NDArray[np.float32]] = []
        for each in codes:
            slot = engine.open_slot()
            heard += engine.decode_frames([FrameChunk(slot, each)])
            engine.release(slot)
        return heard, {"notes": list(engine.info.notes), "sample_rate": engine.info.sample_rate}
    finally:
        engine.close()
