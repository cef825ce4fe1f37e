"""Measure how fast this machine speaks, stage by stage.

    python scripts/measure_speech.py [--model pocket] [--device cpu] [--threads 1]
        [--against-reference]

With ``--against-reference`` the official package (see make_reference_env.py) speaks the same prompt
with the same weights in the same run, and the ratio is printed. The last line on stdout is JSON.
On a CPU read the ratios: times depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from backend.core.contract import FrameChunk
from backend.core.model_location import resolve_model_dir
from backend.core.settings import read_settings
from backend.core.types import SamplingParams, Turn
from backend.models.prompt import build_prompt
from backend.models.tokenizer import Tokenizer
from backend.opt_engine import OptimizedEngine
from backend.service.voices import VoiceLibrary
from scripts.convert_checkpoint import main as convert
from tests.parity.reference import run_oracle

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Please close the window before you leave the house.",
    "The train to the city leaves at nine, and it will be cold and windy.",
    "We walked along the river until the sun went down.",
)
REFERENCE_FRAMES = (10, 50)


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds spent, and seconds of speech made."""

    prefill_s: float
    semantic_s: float
    codec_s: float
    audio_s: float
    num_frames: int

    @property
    def x_realtime(self) -> float:
        """Seconds of speech per second of work."""
        return self.audio_s / (self.prefill_s + self.semantic_s + self.codec_s)


def speak(engine: OptimizedEngine, text: str, turns: list[Turn], chunk_frames: int) -> Stages:
    """Speak one text as a stream of chunks would be made."""
    sampling = engine.info.sampling
    started = time.perf_counter()
    slot = engine.prefill(text, turns, sampling)
    prefill_s = time.perf_counter() - started
    semantic_s = codec_s = 0.0
    num_frames, pending = 0, []
    while True:
        started = time.perf_counter()
        [result] = engine.decode_step([slot])
        semantic_s += time.perf_counter() - started
        if result.codes is not None:
            pending.append(result.codes)
            num_frames += 1
        if len(pending) == chunk_frames or (result.codes is None and pending):
            codes = np.stack(pending, axis=1)
            started = time.perf_counter()
            engine.decode_frames([FrameChunk(slot, codes)])
            codec_s += time.perf_counter() - started
            pending = []
        if result.codes is None:
            break
    engine.release(slot)
    audio_s = num_frames / engine.info.frame_rate
    return Stages(prefill_s, semantic_s, codec_s, audio_s, num_frames)


def total(parts: list[Stages]) -> Stages:
    """Add up."""
    sums = {key: sum(asdict(part)[key] for part in parts) for key in asdict(parts[0])}
    return Stages(**sums)


def reference_frame_s(directory: Path, text: str, turns: list[Turn], threads: int) -> float:
    """Seconds the official package takes for a frame with the same weights and prompt."""
    with tempfile.TemporaryDirectory() as folder:
        official = Path(folder) / "official"
        convert([str(directory), str(official), "--to", "official", "--dtype", "fp32"])
        tokenizer = Tokenizer.from_directory(directory)
        rows = build_prompt(tokenizer, text, turns, turns[0].codes.shape[0])
        short, long = REFERENCE_FRAMES
        job = {
            "directory": str(official),
            "rows": rows.tolist(),
            "dtype": "fp32",
            "mode": "greedy",
            "seed": 0,
            "temperature": 0.7,
            "top_p": 0.8,
            "threads": threads,
            "short": short,
            "long": long,
        }
        return float(run_oracle("speed_oracle.py", job, Path(folder))["frame_s"])


def our_frame_s(engine: OptimizedEngine, text: str, turns: list[Turn]) -> float:
    """Seconds our engine takes for a frame of the same prompt, measured the same way."""
    short, long = REFERENCE_FRAMES
    slot = engine.prefill(text, turns, SamplingParams(temperature=0.0, repetition_penalty=1.0))
    for _ in range(short):
        engine.decode_step([slot])
    started = time.perf_counter()
    for _ in range(long - short):
        engine.decode_step([slot])
    frame_s = (time.perf_counter() - started) / (long - short)
    engine.release(slot)
    return frame_s


def machine() -> dict[str, Any]:
    """Name this machine."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    cards = [torch.cuda.get_device_name(idx) for idx in range(torch.cuda.device_count())]
    return {"cpu": name, "cores": os.cpu_count(), "gpus": cards, "torch": torch.__version__}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for."""
    overrides = {"model": options.model, "device": options.device, "cpu_threads": options.threads}
    settings = read_settings(None, **overrides)
    directory = resolve_model_dir(settings)
    started = time.perf_counter()
    engine = OptimizedEngine.load(settings, directory)
    load_s = time.perf_counter() - started
    engine.warm_up()
    library = VoiceLibrary.load(directory, engine.info)
    turns = [library.voices[0].turn] if library.voices else []
    speak(engine, SENTENCES[0], turns, settings.chunk_size)
    parts = [speak(engine, text, turns, settings.chunk_size) for text in SENTENCES]
    whole = total(parts)
    work_s = whole.prefill_s + whole.semantic_s + whole.codec_s
    facts: dict[str, Any] = {
        "machine": machine(),
        "model": engine.info.model,
        "device": engine.info.device,
        "precision": engine.info.precision,
        "threads": torch.get_num_threads(),
        "x_realtime": round(whole.x_realtime, 2),
        "share_prefill": round(whole.prefill_s / work_s, 3),
        "share_semantic": round(whole.semantic_s / work_s, 3),
        "share_codec": round(whole.codec_s / work_s, 3),
        "num_frames": whole.num_frames,
        "audio_s": round(whole.audio_s, 2),
        "load_s": round(load_s, 2),
    }
    if options.against_reference:
        theirs = reference_frame_s(directory, SENTENCES[2], turns, torch.get_num_threads())
        ours = our_frame_s(engine, SENTENCES[2], turns)
        facts["frame_speed_against_reference"] = round(theirs / ours, 2)
    engine.close()
    return facts


def main() -> int:
    """Measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description="Measure how fast this machine speaks.")
    parser.add_argument("--model", default="pocket", help="as the setting MODEL")
    parser.add_argument("--device", default="auto", help="as the setting DEVICE")
    parser.add_argument("--threads", type=int, default=0, help="as the setting CPU_THREADS")
    parser.add_argument("--against-reference", action="store_true")
    facts = measure(parser.parse_args())
    for name, value in facts.items():
        print(f"{name:32}{value}")
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
