"""Write the listening page: every built-in voice and every marker as a short MP3."""

from __future__ import annotations

import argparse
from pathlib import Path

import soundfile
import torch

from scripts.pocket.judge import load_model
from scripts.pocket.markers import MARKERS
from scripts.pocket.render import RATE_HZ
from scripts.pocket.speakers import BUILT_IN_VOICES

TEXT = "Hello. I am a very small voice, made from nothing by this project. Can you hear me?"
MARKED_TEXT = "Somebody has left the kitchen window open again."
_MARKED_VOICE = "stella"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("backend/pocket"))
    parser.add_argument("--out", type=Path, default=Path("backend/docs/samples"))
    parser.add_argument("--flite", type=Path, help="folder of the unpacked flite libraries")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    model = load_model(args.model, args.flite)
    cases = [(voice.name, TEXT, voice.name) for voice in BUILT_IN_VOICES]
    cases += [
        (f"marker_{name.replace(' ', '_')}", f"({name}) {MARKED_TEXT}", _MARKED_VOICE)
        for name in MARKERS
    ]
    spoken, _ = model.speak(
        [text for _, text, _ in cases], [model.voices[voice] for _, _, voice in cases], seed=1
    )
    for (name, _, _), samples in zip(cases, spoken, strict=True):
        soundfile.write(args.out / f"{name}.mp3", samples, RATE_HZ, format="MP3")
    rows = [f"| {v.name} | {v.description} | [listen]({v.name}.mp3) |" for v in BUILT_IN_VOICES]
    marked = [f"| ({name}) | [listen](marker_{name.replace(' ', '_')}.mp3) |" for name in MARKERS]
    page = [
        "# The pocket voice, to listen to", "",
        f"Each voice says: *{TEXT}*", "",
        "| voice | | |", "|---|---|---|", *rows, "",
        f"Each marker, before *{MARKED_TEXT}*, by {_MARKED_VOICE}:", "",
        "| marker | |", "|---|---|", *marked,
    ]  # fmt: skip
    (args.out / "README.md").write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
