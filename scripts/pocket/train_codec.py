"""Train the codec on shards of rendered speech, within a time budget.

Three phases share one schedule: nothing is quantized at first; then the codebooks are fitted to the
latents and trained; at last discriminators join. ``--decoder-only`` is a fourth: the codes stay as
they are and the decoder alone learns against the discriminators. Labels come from the synthesizer:
the semantic code has to tell the phones, the whole of the codes the pitch. The same command again
goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scripts.pocket.codec import Codec
from scripts.pocket.codec_files import load_codec, save_codec
from scripts.pocket.codec_net import CodecSizes, compile_snake
from scripts.pocket.codec_trainer import CodecTrainer, CodecTraining
from scripts.pocket.curves import Curves
from scripts.pocket.speech_store import SpeechStore

if TYPE_CHECKING:
    from collections.abc import Callable


def cosine_rate(progress: float, step: int, peak: float, warm_up: int = 200) -> float:
    """Linear warm-up over steps, then a cosine over the schedule down to 4 %."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * min(1.0, (step + 1) / warm_up) * (0.04 + 0.96 * cosine)


def judge_weight(training: CodecTraining, judged_steps: int) -> float:
    """How much the discriminators count after so many steps of their own."""
    return min(1.0, max(0, judged_steps - training.judge_wait) / training.judge_ramp)


@dataclass
class Progress:
    """Where a schedule that may take several runs stands."""

    step: int = 0
    judged_steps: int = 0
    spent_s: float = 0.0


def train(
    trainer: CodecTrainer, store: SpeechStore, progress: Progress, curves: Curves,
    run_minutes: float, held: int = 64, when_seen: Callable[[dict[str, float]], None] | None = None,
) -> None:  # fmt: skip
    """Train for ``run_minutes`` of the schedule of ``trainer.training.minutes``.

    ``held`` crops are validated on every 45 seconds and at the end; ``when_seen`` is told the
    figures.
    """
    training, began = trainer.training, time.perf_counter()
    spent_before, num_labels = progress.spent_s, trainer.crop_labels
    totals, count, told = torch.zeros(len(trainer.loss_names), device=trainer.device), 0, began
    looked = began

    def look() -> None:
        figures = trainer.validate(*store.held_crops(held, num_labels))
        curves.add("held_out", progress.step, progress.spent_s, figures)
        if when_seen:
            when_seen(figures)

    while (now := time.perf_counter()) - began < run_minutes * 60:
        progress.spent_s = spent_before + now - began
        share = progress.spent_s / (training.minutes * 60)
        _advance_phase(trainer, store, share)
        trainer.set_rates(
            cosine_rate(share, progress.step, training.peak_lr),
            cosine_rate(share, progress.judged_steps, training.peak_lr * 0.5),
            judge_weight(training, progress.judged_steps),
        )
        totals += trainer.step(*store.crops(training.batch, num_labels))
        count, progress.step = count + 1, progress.step + 1
        progress.judged_steps += trainer.is_judged
        if progress.step % 50 == 0:
            if trainer.phase == "quantized" and share < 0.5:
                trainer.revive_codes()
            if trainer.device.type == "cuda":
                torch.cuda.synchronize()  # the host must not run ahead of the clock
        if now - told > 10:
            mean = dict(zip(trainer.loss_names, (totals / count).tolist(), strict=True))
            if not all(map(math.isfinite, mean.values())):
                raise RuntimeError(f"a loss is not finite at step {progress.step}: {mean}")
            rate = count / (now - told)
            curves.add("train", progress.step, progress.spent_s, mean | {"steps_per_s": rate})
            totals, count, told = torch.zeros_like(totals), 0, now
            store.refresh()
        if now - looked > 45:
            look()
            looked = told = time.perf_counter()
            totals, count = torch.zeros_like(totals), 0
    look()


def _advance_phase(trainer: CodecTrainer, store: SpeechStore, share: float) -> None:
    if trainer.phase == "free" and share >= trainer.training.quantize_at:
        left = trainer.start_quantizing(trainer.latents_for_fit(store))
        print("codebooks fitted, variance left " + " ".join(f"{v:.3f}" for v in left), flush=True)
    elif trainer.phase == "quantized" and share >= trainer.training.judge_at:
        trainer.start_judging()
        print("discriminators join", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="of this run")
    parser.add_argument("--schedule-minutes", type=float, help="of all runs together")
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--start", type=Path, help="codec.safetensors to start from")
    parser.add_argument("--batch", type=int, default=CodecTraining.batch)
    parser.add_argument("--judge-at", type=float, default=CodecTraining.judge_at)
    parser.add_argument("--peak-lr", type=float, default=CodecTraining.peak_lr)
    parser.add_argument("--plain", action="store_true", help="no graph, no fused activation")
    parser.add_argument("--no-fuse", action="store_true", help="no fused activation")
    parser.add_argument("--capacity-hours", type=float, default=60.0)
    parser.add_argument("--wait-hours", type=float, default=0.3)
    return parser.parse_args()


def wait_for_speech(store: SpeechStore, hours: float, deadline: float) -> None:
    """The generator may have started only now."""
    store.refresh()
    while store.hours < hours:
        if time.perf_counter() > deadline:
            raise RuntimeError(f"less than {hours} h of speech: does the generator run?")
        time.sleep(0.5)
        store.refresh()


def main() -> None:
    """Command line of the codec's training."""
    args, began = _arguments(), time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if device.type == "cuda" and not (args.plain or args.no_fuse):
        compile_snake()
    training = CodecTraining(
        args.schedule_minutes or args.minutes, batch=args.batch, judge_at=args.judge_at,
        peak_lr=args.peak_lr, is_decoder_only=args.decoder_only, has_graph=not args.plain,
    )  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    net = load_codec(args.start) if args.start else Codec(CodecSizes())
    trainer, progress = CodecTrainer(net, training, device), Progress()
    state_file = args.out / "codec_state.pt"
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=False)
        trainer.restore(state)
        if trainer.phase == state["phase"]:
            progress = Progress(**state["progress"])
    store = SpeechStore(args.data, device, args.capacity_hours)
    wait_for_speech(store, args.wait_hours, began + args.minutes * 60)
    name = "curves_decoder.jsonl" if args.decoder_only else "curves_codec.jsonl"
    left_minutes = args.minutes - (time.perf_counter() - began) / 60
    train(trainer, store, progress, Curves(args.out / name), left_minutes)
    save_codec(trainer.averaged, args.out / "codec.safetensors")
    torch.save(trainer.state() | {"progress": vars(progress)}, state_file)
    print(f"codec: {progress.step} steps, {progress.spent_s / 60:.1f} min, {store.hours:.1f} h")


if __name__ == "__main__":
    main()
