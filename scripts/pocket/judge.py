"""Measure a pocket checkpoint and write the figures to ``backend/docs/benchmarks/pocket.json``.

Everything is spoken with the shipped sampling defaults and fixed seeds. The sentences are held out
from training, and so are the cloned speakers. The ear is a recognizer that never heard any of it.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scripts.pocket.codec_files import load_codec
from scripts.pocket.export import WEIGHT_FILES, file_hash
from scripts.pocket.flite import Flite
from scripts.pocket.judge_speed import measure_speed
from scripts.pocket.lm_files import load_official_lm
from scripts.pocket.measure import VoiceMeasures, measure_voice, timbre, timbre_distance
from scripts.pocket.recognizer import Recognizer
from scripts.pocket.render import Renderer
from scripts.pocket.sentences import held_out_sentences
from scripts.pocket.speak import Prompt, Sampling, codes_of, generate, prompt_rows, samples_of
from scripts.pocket.speakers import BUILT_IN_VOICES, Speaker, draw_speakers

if TYPE_CHECKING:
    from scripts.pocket.dsp import Samples
    from scripts.pocket.lm_net import DualAR

RESULT_FILE = Path("backend/docs/benchmarks/pocket.json")
UNSEEN_SEED = 4711  # training draws its speakers with other seeds
_OLDER_PARTS = "parts_before_refinement"
_BATCH = 25
# Measures that a marker must move, and which way.
MARKER_DIRECTIONS: dict[str, dict[str, int]] = {
    "whispering": {"voiced": -1, "level_db": -1},
    "shouting": {"level_db": +1, "pitch_hz": +1},
    "soft tone": {"level_db": -1, "brightness_db": -1},
    "in a hurry tone": {"duration_s": -1},
    "sad": {"duration_s": +1, "pitch_hz": -1},
    "excited": {"pitch_hz": +1, "duration_s": -1},
    "angry": {"level_db": +1, "brightness_db": +1},
    "sighing": {"duration_s": +1, "voiced_at_start": -1},
}
_Figures = dict[str, Any]


@dataclass
class Model:
    """A loaded checkpoint and the synthesizer it learned from."""

    lm: DualAR
    codec: Any
    voices: dict[str, Prompt]
    renderer: Renderer
    sampling: Sampling

    def speak(
        self, texts: list[str], prompts: list[Prompt], seed: int
    ) -> tuple[list[Samples], list[bool]]:
        """Samples of each text in the voice of its prompt, and whether each ended by itself."""
        spoken, ended = [], []
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: dict[int, tuple[Samples, bool]] = {}
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            rows = [prompt_rows(self.lm, texts[i], prompts[i]) for i in part]
            for i, (codes, has_ended) in zip(
                part, generate(self.lm, rows, self.sampling, seed + start), strict=True
            ):
                found[i] = (samples_of(self.codec, codes), has_ended)
        for i in range(len(texts)):
            spoken.append(found[i][0])
            ended.append(found[i][1])
        return spoken, ended


def load_model(folder: Path, flite_dir: Path | None) -> Model:
    """Read a shipped folder."""
    voices = {}
    for path in sorted((folder / "voices").glob("*.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        voices[values["name"]] = Prompt(values["text"], np.array(values["codes"]))
    defaults = json.loads((folder / "generation.json").read_text(encoding="utf-8"))
    sampling = Sampling(defaults["temperature"], defaults["top_p"], defaults["top_k"])
    return Model(
        load_official_lm(folder), load_codec(folder / "codec.safetensors"), voices,
        Renderer(Flite(flite_dir)), sampling,
    )  # fmt: skip


# --- hearing -----------------------------------------------------------------------------
_RECOGNIZER: list[Recognizer] = []


def _hear(job: tuple[Samples, str]) -> tuple[int, int]:
    if not _RECOGNIZER:
        _RECOGNIZER.append(Recognizer())
    return _RECOGNIZER[0].errors(*job)


class Ears:
    """Recognizers in other processes."""

    def __init__(self, num_workers: int) -> None:
        self._pool = ProcessPoolExecutor(num_workers)

    def errors(self, spoken: list[Samples], texts: list[str]) -> list[tuple[int, int]]:
        """Word errors and words of each."""
        jobs = list(zip(spoken, texts, strict=True))
        return list(self._pool.map(_hear, jobs, chunksize=4))


def word_error_rate(pairs: list[tuple[int, int]]) -> float:
    """Percent."""
    return round(100 * sum(e for e, _ in pairs) / max(1, sum(n for _, n in pairs)), 2)


# --- judgements --------------------------------------------------------------------------
def judge_words(model: Model, ears: Ears, count: int, num_voices: int) -> _Figures:
    """WER of source, codec and model on held-out sentences; does every utterance end?"""
    texts = list(held_out_sentences())[:count]
    voices = BUILT_IN_VOICES[:num_voices]
    chosen = [voices[i % len(voices)] for i in range(len(texts))]
    source = [
        model.renderer.render(t, v.speaker, i, jitter=False).samples
        for i, (t, v) in enumerate(zip(texts, chosen, strict=True))
    ]
    passed = [samples_of(model.codec, codes_of(model.codec, x)) for x in source]
    spoken, ended = model.speak(texts, [model.voices[v.name] for v in chosen], seed=1)
    heard = {
        name: ears.errors(samples, texts)
        for name, samples in (("source", source), ("codec", passed), ("model", spoken))
    }
    rates = {name: word_error_rate(pairs) for name, pairs in heard.items()}
    lengths = [len(x) / len(y) for x, y in zip(spoken, source, strict=True)]
    babble = sum(not e or ratio > 2.0 for e, ratio in zip(ended, lengths, strict=True))
    peaks = [float(np.abs(x).max(initial=0.0)) for x in spoken]
    return {
        "sentences": len(texts),
        "voices": [v.name for v in voices],
        "wer_percent": rates,
        "wer_over_source": round(rates["model"] - rates["source"], 2),
        "codec_over_source": round(rates["codec"] - rates["source"], 2),
        "wer_percent_by_voice": {
            voice.name: word_error_rate(heard["model"][i :: len(voices)])
            for i, voice in enumerate(voices)
        },
        "source_wer_percent_by_voice": {
            voice.name: word_error_rate(heard["source"][i :: len(voices)])
            for i, voice in enumerate(voices)
        },
        "ended_without_babble_percent": round(100 * (1 - babble / len(texts)), 2),
        "length_over_source_median": round(float(np.median(lengths)), 3),
        "silent_utterances": sum(p < 0.02 for p in peaks),
        "clipped_utterances": sum(p > 0.999 for p in peaks),
    }


def unseen_speakers(count: int) -> list[Speaker]:
    """Speakers that training never drew."""
    return draw_speakers(count + len(BUILT_IN_VOICES), UNSEEN_SEED)[len(BUILT_IN_VOICES) :]


def judge_clones(model: Model, ears: Ears, num_speakers: int) -> _Figures:
    """Does a clone keep its unseen speaker's pitch and timbre?"""
    sentences = held_out_sentences()
    speakers, prompts, references = unseen_speakers(num_speakers), [], []
    for i, speaker in enumerate(speakers):
        text = f"{sentences[-1 - i]} {sentences[-101 - i]}"
        samples = model.renderer.render(text, speaker, i, jitter=False).samples
        references.append(samples)
        prompts.append(Prompt(text, codes_of(model.codec, samples)))
    texts = [f"{sentences[2 * i]} {sentences[2 * i + 1]}" for i in range(num_speakers)]
    spoken, _ = model.speak(texts, prompts, seed=2)
    own = [measure_voice(x).pitch_hz for x in references]
    ours = [measure_voice(x).pitch_hz for x in spoken]
    close = [abs(a / b - 1) <= 0.10 for a, b in zip(ours, own, strict=True)]
    wanted, made = [timbre(x) for x in references], [timbre(x) for x in spoken]
    hits = 0
    for i, clone in enumerate(made):
        group = range(i // 8 * 8, min(num_speakers, i // 8 * 8 + 8))
        hits += min(group, key=lambda j: timbre_distance(clone, wanted[j])) == i
    return {
        "speakers": num_speakers,
        "pitch_within_10_percent": round(100 * sum(close) / num_speakers, 1),
        "pitch_error_median_percent": round(
            100 * float(np.median([abs(a / b - 1) for a, b in zip(ours, own, strict=True)])), 2
        ),
        "own_speaker_best_of_8_percent": round(100 * hits / num_speakers, 1),
        "wer_percent": word_error_rate(ears.errors(spoken, texts)),
        "pitch_hz": [[round(a, 1), round(b, 1)] for a, b in zip(own, ours, strict=True)],
    }


def judge_markers(model: Model, ears: Ears, num_sentences: int) -> _Figures:
    """Does each marker move what it says, against the same sentence without it?"""
    names = ("stella", "angus", "kit", "ross")
    sentences = [s for s in held_out_sentences() if len(s) > 40][5 : 5 + num_sentences]
    cases = [(s, model.voices[n]) for n in names for s in sentences]
    prompts = [voice for _, voice in cases]
    plain_texts = [s for s, _ in cases]
    plain, _ = model.speak(plain_texts, prompts, seed=3)
    before = [measure_voice(x) for x in plain]
    figures: _Figures = {"pairs": len(cases)}
    working = 0
    for marker, directions in MARKER_DIRECTIONS.items():
        texts = [f"({marker}) {s}" for s in plain_texts]
        spoken, _ = model.speak(texts, prompts, seed=3)
        after = [measure_voice(x) for x in spoken]
        moved = {name: _moves(before, after, name, way) for name, way in directions.items()}
        is_heard = all(m["in_direction_percent"] >= 75 for m in moved.values())
        working += is_heard
        wer = word_error_rate(ears.errors(spoken, texts))
        figures[marker] = {"is_heard": is_heard, "wer_percent": wer, **moved}
    paused = [s.rstrip(".") + "... " + "And that was all." for s in plain_texts]
    with_pause, _ = model.speak(paused, prompts, seed=3)
    longer = [measure_voice(x).longest_pause_s for x in with_pause]
    figures["..."] = {
        "longest_pause_s_median": round(float(np.median(longer)), 2),
        "without_s_median": round(float(np.median([m.longest_pause_s for m in before])), 2),
    }
    return {"markers_heard": working, **figures}


def _moves(
    before: list[VoiceMeasures], after: list[VoiceMeasures], name: str, way: int
) -> dict[str, float]:
    pairs = [(asdict(b)[name], asdict(a)[name]) for b, a in zip(before, after, strict=True)]
    right = sum((a - b) * way > 0 for b, a in pairs)
    return {
        "before_median": round(float(np.median([b for b, _ in pairs])), 3),
        "after_median": round(float(np.median([a for _, a in pairs])), 3),
        "in_direction_percent": round(100 * right / len(pairs), 1),
    }


def judge_long_text(model: Model, ears: Ears, num_sentences: int) -> _Figures:
    """One long text, spoken in segments that follow one another as the server does it."""
    sentences = list(held_out_sentences())[-num_sentences:]
    segments = [" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4)]
    voice = model.voices["stella"]
    spoken, earlier = [], None
    for i, text in enumerate(segments):
        opening = prompt_rows(model.lm, "", voice)[:, :-1]
        middle = prompt_rows(model.lm, "", earlier)[:, 1:-1] if earlier else opening[:, :0]
        rows = torch.cat([opening, middle, prompt_rows(model.lm, text, None)[:, 1:]], 1)
        ((codes, _),) = generate(model.lm, [rows], model.sampling, seed=100 + i)
        spoken.append(samples_of(model.codec, codes))
        earlier = Prompt(text, codes)
    pairs = ears.errors(spoken, segments)
    third = -(-len(pairs) // 3)
    thirds = [word_error_rate(pairs[i : i + third]) for i in range(0, len(pairs), third)]
    pitch = [measure_voice(x).pitch_hz for x in spoken]
    return {
        "sentences": len(sentences),
        "segments": len(segments),
        "wer_percent_by_third": thirds,
        "pitch_hz_by_third": [
            round(float(np.median(pitch[i : i + third])), 1) for i in range(0, len(pitch), third)
        ],
    }


def speed_by_threads(folder: Path, threads: int, before: _Figures) -> _Figures:
    """Figures of one number of threads beside those of others."""
    others = {name: figures for name, figures in before.items() if isinstance(figures, dict)}
    return {**others, f"threads_{threads}": measure_speed(folder, threads)}


def note_as_new(result: _Figures, part: str) -> None:
    """Take a part off the list of those that were judged before the codec was refined."""
    older = [name for name in result.pop(_OLDER_PARTS, []) if name != part]
    if older:
        result[_OLDER_PARTS] = older


def shipped_bytes(folder: Path) -> int:
    """Size of all files of a model folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def main() -> None:
    """Command line of the judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("backend/pocket"))
    parser.add_argument("--out", type=Path, default=RESULT_FILE)
    parser.add_argument("--sentences", type=int, default=202)
    parser.add_argument("--voices", type=int, default=len(BUILT_IN_VOICES))
    parser.add_argument("--speakers", type=int, default=40)
    parser.add_argument("--marker-sentences", type=int, default=4)
    parser.add_argument("--long-sentences", type=int, default=100)
    parser.add_argument("--only", nargs="*", help="judge these parts alone and keep the others")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, and of the engine")
    parser.add_argument("--workers", type=int, default=2, help="recognizer processes")
    parser.add_argument("--flite", type=Path, help="folder of the unpacked flite libraries")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ears = Ears(args.workers)
    model = load_model(args.model, args.flite)
    result: _Figures = {}
    if args.only and args.out.exists():
        result = json.loads(args.out.read_text(encoding="utf-8"))
    result["sha256"] = {name: file_hash(args.model / name) for name in WEIGHT_FILES}
    result["sampling"] = asdict(model.sampling)
    result["shipped_mb"] = round(shipped_bytes(args.model) / 1e6, 2)
    steps = {
        "words": lambda: judge_words(model, ears, args.sentences, args.voices),
        "clones": lambda: judge_clones(model, ears, args.speakers),
        "markers": lambda: judge_markers(model, ears, args.marker_sentences),
        "long_text": lambda: judge_long_text(model, ears, args.long_sentences),
        "speed": lambda: speed_by_threads(args.model, args.threads, result.get("speed", {})),
    }
    for name in args.only or steps:
        step, began = steps[name], time.perf_counter()
        result[name] = step()
        note_as_new(result, name)
        print(f"{name} ({time.perf_counter() - began:.0f} s): {json.dumps(result[name])}")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
