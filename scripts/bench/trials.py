"""Run a model one way after another, each against the plain path: what is gained, what it errs."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from backend.core.errors import TTSError
from backend.core.model_location import resolve_model_dir
from backend.engine.codec_setup import choose_codec_setup
from backend.engine.loaded_model import LoadedModel
from backend.engine.precision import choose_precision, cpu_threads
from backend.opt_engine import OptimizedEngine
from scripts.bench.engine_settings import engine_settings
from scripts.bench.figures import Bench
from scripts.bench.scores import difference, forced_codes, greedy_codes, semantic_scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from backend.core.settings import Settings

PROMPT_POSITIONS = 120
MAX_SEQ_LEN = 512
_MIB = 1 << 20
_FAST = ("cpu_fast_linear", "fused_kernels", "resident_kernels", "cuda_graphs")
PLAIN: dict[str, Any] = {
    "mixed_precision": "fp32", "quantization": "none", "max_slots": 1,
    **dict.fromkeys(_FAST, False),
}  # fmt: skip
"""Plain PyTorch layers in float32, every kernel started by itself."""
_WORDS = {
    "cpu_fast_linear": "packed", "fused_kernels": "fused", "resident_kernels": "resident",
    "cuda_graphs": "graphs", "cpu_threads": "threads {}",
}  # fmt: skip
_AMPERE, _HOPPER = (8, 0), (9, 0)


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to run the model, against the plain path.

    Attributes:
        settings: What differs from the plain path, by setting.
        frame_ms: A frame of one sequence.
        gain: Times as fast as the plain path: the better of its times just before and after.
        error: Of the scores, relative; 0 for the plain path.
        agreement: Share of frames with the same likeliest semantic code, drawn by the step that is
            timed behind the plain path's frames.
        weights_mib: The transformer's weights.
        notes: What the engine says about it.
        failure: Why it does not run here; the figures are 0 then.
    """

    settings: dict[str, Any]
    frame_ms: float = 0.0
    gain: float = 0.0
    error: float = 0.0
    agreement: float = 0.0
    weights_mib: float = 0.0
    notes: tuple[str, ...] = ()
    failure: str = ""

    @property
    def name(self) -> str:
        """The settings in words."""
        words = [_WORDS.get(key, "{}").format(value) for key, value in self.settings.items()]
        return " + ".join(words) or "plain"


@dataclass(frozen=True, slots=True)
class Plain:
    """The plain path, kept to be timed again beside every other way.

    Attributes:
        bench: Times its engine.
        threads: What it runs with.
        codes: ``[K, F]``, its likeliest codes.
        scores: ``[F, N]``, its semantic logits before each of them.
    """

    bench: Bench
    threads: int
    codes: NDArray[np.int32]
    scores: Tensor

    def frame_ms(self) -> float:
        """A frame now, whatever else the machine does at the moment."""
        torch.set_num_threads(self.threads)
        return self.bench.decode_step_ms(1)


@dataclass(slots=True)
class Surgery:
    """Runs trials and remembers the plain path they are compared with.

    Attributes:
        model: As the setting MODEL.
        device: As the setting DEVICE.
        steps: Repetitions of a decode step.
    """

    model: str
    device: str
    steps: int
    trials: list[Trial] = field(default_factory=list)
    _plain: Plain | None = None

    def settings(self, **changes: Any) -> Settings:
        """The plain path and ``changes``."""
        given = {"model": self.model, "device": self.device, "max_seq_len": MAX_SEQ_LEN}
        return engine_settings(**{**given, **PLAIN, **changes})

    def start(self) -> Trial:
        """Load and time the plain path; it stays loaded until ``close``."""
        loaded, engine, threads = self._load({})
        torch.set_num_threads(threads)
        engine.warm_up()
        codes = greedy_codes(engine)
        scores = semantic_scores(loaded.dual_ar, loaded.tokenizer, codes)
        bench = Bench(engine, self.steps, PROMPT_POSITIONS)
        self._plain = Plain(bench, threads, codes, scores)
        trial = Trial({}, round(self._plain.frame_ms(), 3), 1.0, 0.0, 1.0, _weights_mib(loaded))
        self.trials.append(trial)
        return trial

    def run(self, changes: dict[str, Any]) -> Trial:
        """Measure another way; a failure is part of the result."""
        try:
            trial = self._measure(changes)
        except (TTSError, RuntimeError) as error:
            trial = Trial(changes, failure=str(error).splitlines()[0])
        self.trials.append(trial)
        gc.collect()
        return trial

    def close(self) -> None:
        """Free the plain path."""
        if self._plain is not None:
            self._plain.bench.engine.close()
            self._plain = None

    def _measure(self, changes: dict[str, Any]) -> Trial:
        assert self._plain is not None
        before = self._plain.frame_ms()
        loaded, engine, threads = self._load(changes)
        torch.set_num_threads(threads)
        try:
            engine.warm_up()
            frame_ms = Bench(engine, self.steps, PROMPT_POSITIONS).decode_step_ms(1)
            codes = forced_codes(engine, self._plain.codes)
        finally:
            engine.close()
        plain_ms = min(before, self._plain.frame_ms())
        scores = semantic_scores(loaded.dual_ar, loaded.tokenizer, self._plain.codes)
        error = difference(self._plain.scores, scores).error
        return Trial(
            changes,
            frame_ms=round(frame_ms, 3),
            gain=round(plain_ms / frame_ms, 2),
            error=round(error, 5),
            agreement=round(float((codes[0] == self._plain.codes[0]).mean()), 3),
            weights_mib=_weights_mib(loaded),
            notes=engine.info.notes,
        )

    def _load(self, changes: dict[str, Any]) -> tuple[LoadedModel, OptimizedEngine, int]:
        settings = self.settings(**changes)
        precision = choose_precision(settings)
        codec_setup = choose_codec_setup(settings, precision.device)
        loaded = LoadedModel.load(self.model, resolve_model_dir(settings), precision, codec_setup)
        engine = OptimizedEngine(loaded, precision, codec_setup, settings)
        return loaded, engine, cpu_threads(settings)


def _weights_mib(loaded: LoadedModel) -> float:
    held = [*loaded.dual_ar.parameters(), *loaded.dual_ar.buffers()]
    return round(sum(value.numel() * value.element_size() for value in held) / _MIB, 1)


def ways(device: torch.device, cores: int) -> list[dict[str, Any]]:
    """What to try on this device, beside the plain path."""
    return _ways_of_a_cpu(cores) if device.type == "cpu" else _ways_of_a_card(device)


def _ways_of_a_cpu(cores: int) -> list[dict[str, Any]]:
    packed = {"cpu_fast_linear": True}
    threads = [{**packed, "cpu_threads": count} for count in sorted({1, cores})]
    half = {"mixed_precision": "bf16"}
    quantized = [
        {**base, "quantization": scheme} for scheme in ("int8", "nf4") for base in ({}, half)
    ]
    return [packed, *threads, half, *quantized]


def _ways_of_a_card(device: torch.device) -> list[dict[str, Any]]:
    """The kernels one after another, then the formats on the fastest kernels."""
    capability = torch.cuda.get_device_capability(device)
    base: dict[str, Any] = {"cuda_graphs": True}
    tried = [base]
    halves = ["fp16"]
    if capability >= _AMPERE:
        base = {**base, "fused_kernels": True}
        tried.append(base)
        halves = ["bf16", "fp16"]
    tried += [{**base, "mixed_precision": name} for name in halves]
    base = {**base, "mixed_precision": halves[0]}
    if capability == _HOPPER:
        base = {**base, "resident_kernels": True}
        tried.append(base)
    return [*tried, *({**base, "quantization": scheme} for scheme in ("int8", "nf4"))]
