"""Refine a shipped codec on fresh speech without changing what its codes mean. Needs a GPU.

    python -m scripts.pocket.refine --minutes 7 --work work --out refined

Starts from a ``codec.safetensors`` alone: the generator renders new speech on all cores but two,
a small phone recognizer is trained on it, then encoder, transformers and decoder learn while the
codebooks stay. The dual-AR and the built-in voices of the start remain valid. The codec is written
at every look at the held-out crops, so an end before time loses little.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from scripts.pocket.codec_files import load_codec, save_codec, saved_tensors
from scripts.pocket.codec_refiner import FROZEN, CodecRefiner
from scripts.pocket.codec_trainer import CodecTraining
from scripts.pocket.curves import Curves
from scripts.pocket.ear import train_ear
from scripts.pocket.processes import start_part, stop_part
from scripts.pocket.speech_store import SpeechStore
from scripts.pocket.train_codec import Progress, train, wait_for_speech
from scripts.pocket.words import SYSTEM_WORDS


def refine(args: argparse.Namespace, device: torch.device, began: float) -> None:
    """Train an ear and the codec until ``args.minutes`` after ``began``."""
    store = SpeechStore(args.work / "speech", device, args.capacity_hours)
    wait_for_speech(store, args.wait_hours, began + min(90.0, args.minutes * 60))
    ear = train_ear(store, device, args.ear_seconds)
    store.refresh()
    left_minutes = args.minutes - (time.perf_counter() - began) / 60
    training = CodecTraining(
        left_minutes, batch=args.batch, crop_frames=args.crop_frames, judged_items=args.judged,
        peak_lr=args.peak_lr, judge_wait=300, judge_ramp=900, has_graph=not args.plain,
    )  # fmt: skip
    trainer, progress = CodecRefiner(load_codec(args.start), training, device, ear), Progress()
    kept = {n: v for n, v in saved_tensors(args.start).items() if n.startswith(FROZEN)}
    curves = Curves(args.out / "curves_refine.jsonl")
    first = trainer.validate(*store.held_crops(args.held, trainer.crop_labels))
    curves.add("held_out", 0, 0.0, first)

    def keep(figures: dict[str, float]) -> None:
        save_codec(trainer.averaged, args.out / "codec.safetensors", kept)
        summary = {"steps": progress.step, "hours": store.hours, "before": first, "after": figures}
        (args.out / "refine.json").write_text(json.dumps(summary, indent=1) + "\n")

    left_minutes = args.minutes - (time.perf_counter() - began) / 60
    train(trainer, store, progress, curves, left_minutes, args.held, keep)
    print(f"refined: {progress.step} steps, {progress.spent_s / 60:.1f} min, {store.hours:.1f} h")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", type=Path, default=Path("backend/pocket/codec.safetensors"))
    parser.add_argument("--work", type=Path, required=True, help="folder for the speech")
    parser.add_argument("--out", type=Path, required=True, help="folder for codec and figures")
    parser.add_argument("--minutes", type=float, required=True, help="of the whole command")
    parser.add_argument("--hours", type=float, default=70, help="speech to render")
    parser.add_argument("--seed", type=int, default=2, help="of texts and speakers")
    parser.add_argument("--workers", type=int, help="of the generator")
    parser.add_argument("--shard-s", type=float, default=240.0)
    parser.add_argument("--wait-hours", type=float, default=1.0)
    parser.add_argument("--capacity-hours", type=float, default=60.0)
    parser.add_argument("--ear-seconds", type=float, default=40.0)
    parser.add_argument("--batch", type=int, default=14)
    parser.add_argument("--crop-frames", type=int, default=80)
    parser.add_argument("--judged", type=int, default=10, help="items the discriminators see")
    parser.add_argument("--held", type=int, default=48, help="held-out crops")
    parser.add_argument("--peak-lr", type=float, default=3e-4)
    parser.add_argument("--plain", action="store_true", help="no graph")
    parser.add_argument("--flite", type=Path, help="folder of the unpacked flite libraries")
    parser.add_argument("--words", type=Path, default=SYSTEM_WORDS)
    return parser.parse_args()


def main() -> None:
    """Command line."""
    args, began = _arguments(), time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(args.seed)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    args.out.mkdir(parents=True, exist_ok=True)
    options = ["--out", str(args.work / "speech"), "--hours", str(args.hours)]
    options += ["--seed", str(args.seed), "--words", str(args.words)]
    options += ["--shard-s", str(args.shard_s)]
    options += ["--workers", str(args.workers)] if args.workers else []
    options += ["--flite", str(args.flite)] if args.flite else []
    generator = start_part("shards", *options)
    try:
        refine(args, device, began)
    finally:
        stop_part(generator)


if __name__ == "__main__":
    main()
