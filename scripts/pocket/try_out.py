"""Say one sentence with a model folder and tell the sizes of its files; torch is all it needs."""

from __future__ import annotations

import argparse
import json
import wave
from pathlib import Path

import numpy as np

from scripts.pocket.codec_files import load_codec
from scripts.pocket.lm_files import load_official_lm
from scripts.pocket.render import RATE_HZ
from scripts.pocket.speak import Prompt, Sampling, generate, prompt_rows, samples_of


def try_out(model: Path, text: str, wav: Path | None) -> tuple[float, bool]:
    """Speak ``text`` in the default voice; returns its seconds and whether it ended by itself."""
    voices = [json.loads(path.read_text()) for path in sorted((model / "voices").glob("*.json"))]
    voice = next(values for values in voices if values["default"])
    net, codec = load_official_lm(model), load_codec(model / "codec.safetensors")
    defaults = json.loads((model / "generation.json").read_text(encoding="utf-8"))
    sampling = Sampling(defaults["temperature"], defaults["top_p"], defaults["top_k"])
    rows = prompt_rows(net, text, Prompt(voice["text"], np.array(voice["codes"])))
    ((codes, has_ended),) = generate(net, [rows], sampling, seed=1)
    samples = samples_of(codec, codes)
    if wav:
        with wave.open(str(wav), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            file.writeframes((np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes())
    return len(samples) / RATE_HZ, has_ended


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("backend/pocket"))
    parser.add_argument("--text", default="The train to the coast leaves at nine in the morning.")
    parser.add_argument("--wav", type=Path, help="write the speech there")
    args = parser.parse_args()
    for path in sorted(p for p in args.model.rglob("*") if p.is_file()):
        print(f"{path.relative_to(args.model)}: {path.stat().st_size / 1e6:.2f} MB")
    seconds, has_ended = try_out(args.model, args.text, args.wav)
    print(f"spoke {seconds:.2f} s, {'ended by itself' if has_ended else 'did not end'}")


if __name__ == "__main__":
    main()
