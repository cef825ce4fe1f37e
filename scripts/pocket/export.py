"""Assemble the shipped folder: weights, configs, tokenizer, sampling defaults, built-in voices."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

from scripts.pocket.codec_files import load_codec
from scripts.pocket.flite import Flite
from scripts.pocket.lm_files import load_lm, official_config, save_official_lm, write_tokenizer
from scripts.pocket.render import Renderer
from scripts.pocket.speak import Sampling, codes_of
from scripts.pocket.speakers import BUILT_IN_VOICES, DEFAULT_SPEAKER, BuiltInVoice

PROMPT_TEXT = "The weather was fine, so we walked along the river until the sun went down."
_PROMPT_SEED = 99
WEIGHT_FILES = ("model.safetensors", "codec.safetensors")


def voice_file(voice: BuiltInVoice, codes: list[list[int]]) -> dict[str, object]:
    """What the JSON file of a built-in voice holds."""
    return {
        "name": voice.name,
        "text": PROMPT_TEXT,
        "language": "en",
        "description": voice.description,
        "default": voice is BUILT_IN_VOICES[DEFAULT_SPEAKER],
        "source": {"synthesizer": "flite 2.2", **voice.speaker.as_dict()},
        "codes": codes,
    }


def export(codec_file: Path, lm_file: Path, out: Path, flite_dir: Path | None) -> None:
    """Write the model folder that ``MODEL=pocket`` loads.

    Args:
        codec_file: ``codec.safetensors`` of the codec's training.
        lm_file: ``lm.safetensors`` of the dual-AR's training.
        out: the folder; its files are replaced.
        flite_dir: unpacked flite libraries, or None for the system's.
    """
    (out / "voices").mkdir(parents=True, exist_ok=True)
    codec, lm = load_codec(codec_file), load_lm(lm_file)
    shutil.copyfile(codec_file, out / "codec.safetensors")
    shutil.copyfile(codec_file.with_suffix(".yaml"), out / "codec.yaml")
    save_official_lm(lm, out / "model.safetensors")
    (out / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    (out / "config.json").write_text(json.dumps(official_config(lm.sizes), indent=1) + "\n")
    write_tokenizer(lm.sizes, out)
    defaults = Sampling()
    generation = {
        "temperature": defaults.temperature,
        "top_p": defaults.top_p,
        "top_k": defaults.top_k,
        "repetition_penalty": 1.0,
        "max_new_tokens": 1024,
    }
    (out / "generation.json").write_text(json.dumps(generation, indent=1) + "\n")
    renderer = Renderer(Flite(flite_dir))
    for voice in BUILT_IN_VOICES:
        spoken = renderer.render(PROMPT_TEXT, voice.speaker, _PROMPT_SEED, jitter=False)
        codes = codes_of(codec, spoken.samples).tolist()
        path = out / "voices" / f"{voice.name}.json"
        path.write_text(json.dumps(voice_file(voice, codes)) + "\n", encoding="utf-8")


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Command line of the export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", type=Path, required=True)
    parser.add_argument("--lm", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--flite", type=Path, help="folder of the unpacked flite libraries")
    args = parser.parse_args()
    export(args.codec, args.lm, args.out, args.flite)
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB")
    for name in WEIGHT_FILES:
        print(f"{name} sha256 {file_hash(args.out / name)}")


if __name__ == "__main__":
    main()
