"""Measure what a setting does to the speech: word errors, length, level and pitch.

    python scripts/measure_quality.py speak out/bf16.npz --device cuda --precision bf16
        [--quantization int8] [--kv-quantization int8] [--sound out/bf16.flac] [--count 202]
    python scripts/measure_quality.py judge out/float32.npz out/bf16.npz ... [--out quality.json]

``speak`` runs where the setting runs and keeps codes alone, a few hundred kilobytes, and with
``--sound`` what its codec made of them. ``judge`` runs on any CPU: it decodes the codes in float32,
so what differs is the transformer's doing, or listens to the sound where a file of the same name
lies beside the codes. The first file is what the others are compared with. The recognizer is
pocketsphinx (requirements-dev.txt); the sentences are those that the pocket voice never trained on.
The last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from backend.core.errors import TTSError
from backend.core.model_location import resolve_model_dir
from scripts.bench.engine_settings import engine_settings
from scripts.quality.speak import sound_of, speak
from scripts.quality.takes import Takes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scripts.quality.judge import Heard

HELD_OUT = Path(__file__).with_name("pocket") / "held_out.txt"
HEARING_HZ = 16_000


def speak_command(options: argparse.Namespace) -> dict[str, Any]:
    """Speak with one setting and write the takes."""
    settings = engine_settings(
        model=options.model,
        device=options.device,
        cpu_threads=options.threads,
        max_slots=options.max_slots,
        mixed_precision=options.precision,
        quantization=options.quantization,
        kv_quantization=options.kv_quantization,
        resident_kernels=options.resident_kernels,
        fused_kernels=options.fused_kernels,
    )
    directory = resolve_model_dir(settings)
    texts = HELD_OUT.read_text(encoding="utf-8").splitlines()[: options.count]
    takes = speak(settings, directory, texts)
    takes.write(options.takes)
    facts = {**takes.facts, "frames": sum(codes.shape[1] for codes in takes.codes)}
    if options.sound is not None:
        samples, told = sound_of(settings, directory, takes.codes)
        write_sound(options.sound, samples, told["sample_rate"])
        facts["sound"] = told
    return facts


def write_sound(path: Path, samples: list[NDArray[np.float32]], sample_rate: int) -> None:
    """Write all takes one after another, as the recognizer hears them: 16 kHz, 16 bits."""
    import soundfile

    from backend.audio.resample import resample

    joined = np.concatenate([resample(each, sample_rate, HEARING_HZ) for each in samples])
    soundfile.write(path, joined, HEARING_HZ, subtype="PCM_16")
    lengths = [resample(each, sample_rate, HEARING_HZ).shape[0] for each in samples]
    path.with_suffix(".lengths.json").write_text(json.dumps(lengths), encoding="utf-8")


def judge_command(options: argparse.Namespace) -> dict[str, Any]:
    """Judge takes; those whose codes are the first one's are not heard twice."""
    from scripts.quality.judge import as_table, compare

    every = {path: Takes.read(path) for path in options.takes}
    base = every[options.takes[0]]
    for path, takes in every.items():
        if takes.texts != base.texts or takes.voices != base.voices:
            raise ValueError(f"{path}: other sentences or voices than {options.takes[0]}")
    everything = list(range(len(base.texts)))[: options.count]
    heard_base = heard_of(options, options.takes[0], base, everything)
    figures: dict[str, dict[str, Any]] = {}
    for path, takes in every.items():
        same = [np.array_equal(takes.codes[idx], base.codes[idx]) for idx in everything]
        heard = list(heard_base)
        has_sound = path.with_suffix(".flac").is_file() and path != options.takes[0]
        other = [idx for idx in everything if has_sound or not same[idx]]
        new = heard_of(options, path, takes, other)
        for idx, each in zip(other, new, strict=True):
            heard[idx] = each
        figures[path.stem] = {
            "same_codes": sum(same),
            **compare(heard, heard_base),
            "facts": takes.facts,
        }
        told = {k: v for k, v in figures[path.stem].items() if k != "facts"}
        print(f"{path.stem}: {json.dumps(told)}", flush=True)
    print(as_table(figures))
    return figures


def heard_of(
    options: argparse.Namespace, path: Path, takes: Takes, which: list[int]
) -> list[Heard]:
    """What the recognizer makes of some takes."""
    from scripts.quality.judge import hear_all

    samples = sound(options, path, takes, which)
    return hear_all(samples, [takes.texts[idx] for idx in which], options.workers)


def sound(
    options: argparse.Namespace, path: Path, takes: Takes, which: list[int]
) -> list[NDArray[np.float32]]:
    """16 kHz samples of some takes: the machine's own if they were kept, else from the codes."""
    kept = path.with_suffix(".flac")
    if kept.is_file():
        import soundfile

        lengths = json.loads(kept.with_suffix(".lengths.json").read_text(encoding="utf-8"))
        joined = np.asarray(soundfile.read(kept, dtype="float32")[0], dtype=np.float32)
        parts = np.split(joined, np.cumsum(lengths)[:-1])
        return [parts[idx] for idx in which]
    from backend.audio.resample import resample

    settings = engine_settings(model=options.model, device="cpu", cpu_threads=options.threads)
    codes = [takes.codes[idx] for idx in which]
    made, told = sound_of(settings, resolve_model_dir(settings), codes)
    return [resample(each, told["sample_rate"], HEARING_HZ) for each in made]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure what a setting does to the speech.")
    parser.add_argument("--model", default="pocket", help="as the setting MODEL")
    parser.add_argument("--threads", type=int, default=0, help="as the setting CPU_THREADS")
    commands = parser.add_subparsers(required=True)
    speaking = commands.add_parser("speak", help="speak the sentences and keep the codes")
    speaking.set_defaults(run=speak_command)
    add = speaking.add_argument
    add("takes", type=Path, help="where to write them (.npz)")
    add("--device", default="auto", help="as the setting DEVICE")
    add("--precision", default="auto", help="as the setting MIXED_PRECISION")
    add("--quantization", default="none", help="as the setting")
    add("--kv-quantization", default="none", help="as the setting")
    for name in ("--resident-kernels", "--fused-kernels"):
        add(name, action=argparse.BooleanOptionalAction, default=True, help="as the setting")
    add("--max-slots", type=int, default=8, help="sentences that are spoken at once")
    add("--count", type=int, default=202, help="sentences")
    add("--sound", type=Path, help="keep what the codec makes of them here (.flac)")
    judging = commands.add_parser("judge", help="compare takes with the first ones")
    judging.set_defaults(run=judge_command)
    judging.add_argument("takes", type=Path, nargs="+", help="files that speak wrote")
    judging.add_argument("--count", type=int, help="hear the first so many alone")
    judging.add_argument("--workers", type=int, default=2, help="processes that listen")
    judging.add_argument("--out", type=Path, help="write the JSON here too")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Speak or judge; the last line is JSON."""
    options = parse_arguments(arguments)
    try:
        figures = options.run(options)
    except (TTSError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = json.dumps(figures)
    if getattr(options, "out", None):
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
