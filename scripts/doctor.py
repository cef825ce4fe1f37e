"""Tell what this machine can do, which settings suit it, and prove it.

    python scripts/doctor.py [--model pocket] [--device auto] [--steps 12]

Every fast path, number format, quantization and thread count that this machine offers is tried with
the model against the plain path (PyTorch's own layers in fp32, no graphs, nothing quantized): how
much faster a frame is made, how far the stored weights move the scores, and how many frames keep
their likeliest code. What pays and is no default is proposed as lines for ``.env``. The last line
on stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from backend.core.errors import TTSError
from backend.core.model_location import resolve_model_dir
from backend.engine.memory import free_budget, most_slots, plan_for
from backend.engine.precision import choose_precision
from scripts.bench.engine_settings import engine_settings
from scripts.bench.machine import machine, versions
from scripts.bench.trials import PLAIN, Surgery, Trial, ways

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST_GAIN = 1.1
"""Below this a speed-up is not told from noise."""
LEAST_AGREEMENT = {"none": 0.95, "int8": 0.95, "nf4": 0.75}
"""Share of frames that must keep their likeliest code for a proposal."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """One line for ``.env``, and why."""

    key: str
    value: str
    reason: str


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
            value,
            f"a frame {best.gain:.2f} x as fast as plain; scores move by {best.error:.1%}, "
            f"{best.agreement:.0%} of the frames keep their likeliest code",
        )
        for key, value in _no_defaults(surgery, best)
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


def _no_defaults(surgery: Surgery, best: Trial) -> Iterator[tuple[str, str]]:
    """What the defaults would not choose: names and values of settings that were tried."""
    tried = {key for trial in surgery.trials for key in trial.settings}
    natural = choose_precision(surgery.settings(mixed_precision="auto")).name
    defaults = engine_settings()
    for key, value in {**PLAIN, **best.settings}.items():
        usual = natural if key == "mixed_precision" else getattr(defaults, key)
        if key in tried and value != usual:
            yield key, str(value).lower()


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
