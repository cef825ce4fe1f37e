"""Tell what this machine can do, which settings suit it, and prove it.

    python scripts/doctor.py [--model pocket] [--device auto] [--steps 12]

Every number format, quantization and thread count that this machine offers is tried with the model
against the plain path (fp32, nothing quantized): how much faster a frame is made, how far the
scores move, and how many frames keep their likeliest code. What pays is proposed as lines for
``.env``. The last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from backend.core.errors import TTSError
from backend.core.model_location import resolve_model_dir
from backend.engine.codec_setup import choose_codec_setup
from backend.engine.memory import free_budget, most_slots, plan_for
from backend.engine.precision import choose_precision, cpu_threads
from backend.opt_engine import LoadedModel, OptimizedEngine
from scripts.bench.engine_settings import engine_settings
from scripts.bench.figures import Bench
from scripts.bench.machine import machine, versions
from scripts.bench.scores import difference, greedy_codes, semantic_scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from backend.core.settings import Settings

PROMPT_POSITIONS = 120
MAX_SEQ_LEN = 512
LEAST_GAIN = 1.1
"""Below this a speed-up is not told from noise."""
LEAST_AGREEMENT = {"none": 0.95, "int8": 0.95, "nf4": 0.75}
"""Share of frames that must keep their likeliest code for a proposal."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to run the model, against the plain path.

    Attributes:
        settings: What differs from the plain path, by setting.
        frame_ms: A frame of one sequence.
        gain: Times as fast as the plain path: the better of its times just before and after.
        error: Of the scores, relative; 0 for the plain path.
        agreement: Share of frames with the same likeliest code.
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
        pairs = [f"{key.upper()}={value}" for key, value in self.settings.items()]
        return " ".join(pairs) or "plain"


@dataclass(frozen=True, slots=True)
class Proposal:
    """One line for ``.env``, and why."""

    key: str
    value: str
    reason: str


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
        plain = {"mixed_precision": "fp32", "quantization": "none", "max_slots": 1}
        given = {"model": self.model, "device": self.device, "max_seq_len": MAX_SEQ_LEN}
        return engine_settings(**{**given, **plain, **changes})

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
        finally:
            engine.close()
        plain_ms = min(before, self._plain.frame_ms())
        scores = semantic_scores(loaded.dual_ar, loaded.tokenizer, self._plain.codes)
        moved = difference(self._plain.scores, scores)
        return Trial(
            changes,
            frame_ms=round(frame_ms, 3),
            gain=round(plain_ms / frame_ms, 2),
            error=round(moved.error, 5),
            agreement=round(moved.agreement, 3),
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
    if device.type == "cpu":
        threads = [{"cpu_threads": count} for count in sorted({1, cores})]
        halves = ["bf16"]
    else:
        threads = []
        capability = torch.cuda.get_device_capability(device)
        halves = ["bf16", "fp16"] if capability >= (8, 0) else ["fp16"]
    tried = [*threads, *({"mixed_precision": name} for name in halves)]
    for scheme in ("int8", "nf4"):
        if device.type == "cpu":
            tried.append({"quantization": scheme})
        tried.append({"mixed_precision": halves[0], "quantization": scheme})
    return tried


def best_trial(trials: list[Trial]) -> Trial:
    """The fastest way whose scores stay close enough; the plain one unless the gain is clear."""
    plain = trials[0]
    good = [
        trial
        for trial in trials[1:]
        if not trial.failure
        and trial.gain >= LEAST_GAIN
        and trial.agreement >= LEAST_AGREEMENT[trial.settings.get("quantization", "none")]
    ]
    return max(good, key=lambda trial: trial.gain, default=plain)


def propose(surgery: Surgery, frame_rate: float) -> list[Proposal]:
    """Settings for this machine, each with its reason."""
    best = best_trial(surgery.trials)
    proposals = [
        Proposal(
            key.upper(),
            str(value),
            f"a frame {best.gain:.2f} x as fast as plain; scores move by {best.error:.1%}, "
            f"{best.agreement:.0%} of the frames keep their likeliest code",
        )
        for key, value in best.settings.items()
    ]
    slots = engine_settings().max_slots
    settings = surgery.settings(**best.settings, max_slots=slots, max_seq_len=4096)
    precision = choose_precision(settings)
    plan = plan_for(settings, precision, resolve_model_dir(settings))
    budget = free_budget(precision.device)
    most = slots if budget is None else most_slots(plan, budget)
    if most == 0:
        proposals.append(
            Proposal("MAX_SEQ_LEN", "1024", "not even one slot of 4,096 positions fits in memory")
        )
    elif most < slots:
        proposals.append(Proposal("MAX_SLOTS", str(most), "more do not fit into the free memory"))
    in_time = int(1e3 / frame_rate / best.frame_ms)
    if precision.device.type == "cpu" and max(1, in_time) < min(most, slots):
        proposals.append(
            Proposal(
                "MAX_SLOTS",
                str(max(1, in_time)),
                f"a frame is {1e3 / frame_rate:.0f} ms of speech and takes {best.frame_ms:.0f} ms "
                "of work: more sequences at a time fall behind real time",
            )
        )
    return proposals


def examine(options: argparse.Namespace) -> dict[str, Any]:
    """Look, try, and propose."""
    surgery = Surgery(options.model, options.device, options.steps)
    facts, found = machine(), versions()
    device = choose_precision(surgery.settings()).device
    print_facts(facts, found, device)
    print(f"\n{'way':44}{'ms a frame':>11}{'gain':>7}{'error':>8}{'same':>7}{'MiB':>8}")
    print_trial(surgery.start())
    for changes in ways(device, facts["cores"] or 1):
        print_trial(surgery.run(changes))
    surgery.close()
    frame_rate = _frame_rate(surgery)
    proposals = propose(surgery, frame_rate)
    print("\nSettings for this machine (.env):" if proposals else "\nThe defaults suit it.")
    for one in proposals:
        print(f"  {one.key}={one.value}\n      {one.reason}")
    return {
        "machine": facts,
        "versions": found,
        "device": str(device),
        "model": options.model,
        "trials": [asdict(trial) for trial in surgery.trials],
        "proposals": [asdict(one) for one in proposals],
    }


def _frame_rate(surgery: Surgery) -> float:
    from backend.models.codec.weights import find_codec_file, read_codec_config

    directory = resolve_model_dir(surgery.settings())
    config = read_codec_config(find_codec_file(directory))
    return config.sample_rate / config.frame_length


def print_facts(facts: dict[str, Any], found: dict[str, str | None], device: torch.device) -> None:
    """The machine in a few lines."""
    print(f"processor    {facts['cpu']}, {facts['cores']} cores, {facts['host_free_mib']} MiB free")
    for card in facts["cards"]:
        print(
            f"card         {card['name']}, compute capability {card['compute_capability']}, "
            f"{card['memory_free_mib']} of {card['memory_total_mib']} MiB free"
        )
    print(f"runs on      {device}, {torch.get_num_threads()} threads")
    for name, version in found.items():
        print(f"{name:13}{version or 'not installed'}")
    if facts["cards"] and not found["triton"]:
        print("             without triton the kernels are plain PyTorch (slower)")
    if facts["cards"] and not found["bitsandbytes"]:
        print("             without bitsandbytes NF4 weights are dequantized by plain PyTorch")


def print_trial(trial: Trial) -> None:
    """One line of the table."""
    if trial.failure:
        print(f"{trial.name:44}does not run here: {trial.failure}", flush=True)
        return
    print(
        f"{trial.name:44}{trial.frame_ms:11.2f}{trial.gain:7.2f}{trial.error:8.2%}"
        f"{trial.agreement:7.0%}{trial.weights_mib:8.1f}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Examine and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description="Tell which settings suit this machine.")
    parser.add_argument("--model", default="pocket", help="as the setting MODEL")
    parser.add_argument("--device", default="auto", help="as the setting DEVICE")
    parser.add_argument("--steps", type=int, default=12, help="repetitions of a decode step")
    try:
        report = examine(parser.parse_args(arguments))
    except TTSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
