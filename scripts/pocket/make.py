"""Make the pocket voice from nothing: speech, codec, dual-AR, model folder. Needs a GPU.

    python -m scripts.pocket.make --work work --out backend/pocket

The generator fills all processor cores but two while the codec trains. Then the speech is encoded,
the dual-AR trains, and the decoder is refined beside it. Every part goes on where it stopped when
the command is given again, so a machine that is lent for minutes at a time will do: ``--until``
ends the command after a part. Requirements: flite's libraries (Debian's ``libflite1``) and the
word list of ``wamerican-small``; no downloads.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.pocket.plot import plot_curves
from scripts.pocket.processes import finish_part, start_part, stop_part
from scripts.pocket.words import SYSTEM_WORDS

PARTS = ("codec", "encode", "lm", "export", "speak")


@dataclass(frozen=True)
class Plan:
    """Where things lie and how long they may take.

    Attributes:
        work: folder for speech, states and curves.
        out: the model folder to write.
        hours: speech to render.
        codec_minutes: joint training of the codec.
        lm_minutes: training of the dual-AR; the decoder is refined meanwhile.
        second_lm_minutes: a second pass of the dual-AR at a lower rate.
        flite: unpacked flite libraries, or None for the system's.
        words: system word list.
    """

    work: Path
    out: Path
    hours: float
    codec_minutes: float
    lm_minutes: float
    second_lm_minutes: float
    flite: Path | None
    words: Path

    @property
    def wait_hours(self) -> float:
        """Speech that has to be there before the codec trains."""
        return min(0.3, self.hours / 4)

    def flite_options(self) -> list[str]:
        """Options that name the synthesizer's libraries."""
        return ["--flite", str(self.flite)] if self.flite else []


def make_codec(plan: Plan) -> None:
    """Render the speech and train the codec meanwhile; wait for both."""
    speech, joint = plan.work / "speech", plan.work / "codec"
    generator = None
    if not (speech / "complete").exists():
        generator = start_part(
            "shards", "--out", str(speech), "--hours", str(plan.hours),
            "--words", str(plan.words), *plan.flite_options(),
        )  # fmt: skip
    training = start_part(
        "train_codec", "--data", str(speech), "--out", str(joint),
        "--minutes", str(plan.codec_minutes), "--judge-at", "0.6", "--no-fuse",
        "--wait-hours", str(plan.wait_hours),
    )  # fmt: skip
    try:
        finish_part(training)
        if generator:
            finish_part(generator)
            (speech / "complete").touch()
    finally:
        if generator:
            stop_part(generator)


def encode(plan: Plan) -> None:
    """Turn all speech into training columns."""
    finish_part(
        start_part(
            "encode_shards",
            "--data",
            str(plan.work / "speech"),
            "--codec",
            str(plan.work / "codec" / "codec.safetensors"),
            "--out",
            str(plan.work / "columns"),
        )
    )


def make_lm(plan: Plan) -> None:
    """Train the dual-AR twice, the decoder beside the first time."""
    columns, first, second = (str(plan.work / name) for name in ("columns", "lm", "lm2"))
    joint, decoder = plan.work / "codec", plan.work / "decoder"
    decoder.mkdir(exist_ok=True)
    state = decoder / "codec_state.pt"
    if not state.exists():
        state.write_bytes((joint / "codec_state.pt").read_bytes())
    refining = start_part(
        "train_codec", "--data", str(plan.work / "speech"), "--out", str(decoder),
        "--minutes", str(plan.lm_minutes), "--decoder-only", "--no-fuse", "--peak-lr", "3e-4",
        "--capacity-hours", "40", "--wait-hours", str(plan.wait_hours),
    )  # fmt: skip
    finish_part(
        start_part(
            "train_lm", "--columns", columns, "--out", first, "--minutes", str(plan.lm_minutes)
        )
    )
    finish_part(refining)
    finish_part(
        start_part(
            "train_lm",
            "--columns",
            columns,
            "--out",
            second,
            "--minutes",
            str(plan.second_lm_minutes),
            "--seed",
            "7",
            "--peak-lr",
            "8e-4",
            "--start",
            f"{first}/lm.safetensors",
        )
    )


def export_model(plan: Plan) -> None:
    """Write the model folder and the plot of all curves."""
    finish_part(
        start_part(
            "export",
            "--codec",
            str(plan.work / "decoder" / "codec.safetensors"),
            "--lm",
            str(plan.work / "lm2" / "lm.safetensors"),
            "--out",
            str(plan.out),
            *plan.flite_options(),
        )
    )
    plot_curves(sorted(plan.work.glob("*/curves_*.jsonl")), plan.work / "curves.svg")


def speak(plan: Plan) -> None:
    """Say one sentence with what was made."""
    finish_part(start_part("try_out", "--model", str(plan.out), "--wav", str(plan.work / "a.wav")))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=130)
    parser.add_argument("--codec-minutes", type=float, default=9.1)
    parser.add_argument("--lm-minutes", type=float, default=6.2)
    parser.add_argument("--second-lm-minutes", type=float, default=5.3)
    parser.add_argument("--flite", type=Path, help="folder of the unpacked flite libraries")
    parser.add_argument("--words", type=Path, default=SYSTEM_WORDS)
    parser.add_argument("--start-at", choices=PARTS, default=PARTS[0])
    parser.add_argument("--until", choices=PARTS, default=PARTS[-1])
    args = parser.parse_args()
    plan = Plan(
        args.work, args.out, args.hours, args.codec_minutes, args.lm_minutes,
        args.second_lm_minutes, args.flite, args.words,
    )  # fmt: skip
    plan.work.mkdir(parents=True, exist_ok=True)
    steps = dict(zip(PARTS, (make_codec, encode, make_lm, export_model, speak), strict=True))
    first, last = PARTS.index(args.start_at), PARTS.index(args.until)
    for name in PARTS[first : last + 1]:
        began = time.perf_counter()
        steps[name](plan)
        print(f"{name}: {(time.perf_counter() - began) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
