"""Write rendered speech to disk in shards, many processes at once.

A shard is three files of one stem: ``.pcm`` int16 samples of all its utterances end to end, ``.ph``
one uint8 phone label every 10 ms, and ``.json``, written last: a list of items
``[first sample, samples, first label, labels, speaker, text]``. A trainer may read complete shards
while the generator still runs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.pocket.flite import Flite
from scripts.pocket.markers import MARKERS
from scripts.pocket.render import RATE_HZ, Renderer
from scripts.pocket.sentences import SentenceComposer
from scripts.pocket.speakers import DEFAULT_SPEAKER, draw_speakers
from scripts.pocket.words import SYSTEM_WORDS

MIN_S, MAX_S = 0.4, 18.0


@dataclass(frozen=True)
class GeneratorConfig:
    """What to generate.

    Attributes:
        out_dir: where the shards go.
        hours: audio to make; the processes share it.
        num_speakers: how many speakers are drawn.
        seed: of texts, speakers and rendering.
        default_share: share of utterances in the default voice.
        shard_s: audio seconds per shard.
        flite_dir: unpacked flite libraries, or None for the system's.
        words_path: system word list.
    """

    out_dir: Path
    hours: float
    num_speakers: int = 2400
    seed: int = 1
    default_share: float = 0.06
    shard_s: float = 240.0
    flite_dir: Path | None = None
    words_path: Path = SYSTEM_WORDS


def compose_text(composer: SentenceComposer, max_chars: int = 260) -> str:
    """One utterance: mostly a sentence, sometimes a paragraph, sometimes marked or broken off."""
    rng = composer.random
    sentences = [composer.sentence()]
    more = 0.8 if rng.random() < 0.08 else 0.14
    while rng.random() < more and sum(map(len, sentences)) < max_chars * 0.6:
        sentences.append(composer.sentence())
    kind = rng.random()
    if kind < 0.24:
        place = rng.randrange(len(sentences))
        marker = rng.choice(list(MARKERS))
        sentences[place] = f"({marker}) {sentences[place]}"
    elif kind < 0.30:
        pause = rng.choice(("... ", "... ", " (break) ", " (long-break) "))
        tail = composer.sentence()
        sentences[-1] = sentences[-1].rstrip(".!?") + pause + tail
    return " ".join(sentences)


def generate(config: GeneratorConfig, num_workers: int) -> None:
    """Fill ``config.out_dir`` with ``num_workers`` processes and return when they are done."""
    config.out_dir.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    workers = [
        context.Process(target=_work, args=(config, index, num_workers))
        for index in range(num_workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failed = [worker.exitcode for worker in workers if worker.exitcode]
    if failed:
        raise RuntimeError(f"{len(failed)} generator processes failed, exit codes {failed}")


def _work(config: GeneratorConfig, index: int, num_workers: int) -> None:
    os.nice(15)  # a trainer beside it launches its kernels from one core: leave it that
    seed = config.seed * 10_000 + index
    composer = SentenceComposer(seed, words_path=config.words_path)
    renderer = Renderer(Flite(config.flite_dir))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # flite grumbles about missing diphones
    speakers = draw_speakers(config.num_speakers, config.seed)
    rng = random.Random(seed)  # noqa: S311 - not a secret
    wanted_s, made_s, shard = config.hours * 3600 / num_workers, 0.0, 0
    while made_s < wanted_s:
        samples, labels, items, offset, label_offset = [], [], [], 0, 0
        while offset < config.shard_s * RATE_HZ:
            is_default = rng.random() < config.default_share
            speaker = DEFAULT_SPEAKER if is_default else rng.randrange(len(speakers))
            text = compose_text(composer)
            try:
                spoken = renderer.render(text, speakers[speaker], rng.randrange(1 << 30))
            except ValueError:  # a text of marks alone
                continue
            if not MIN_S * RATE_HZ < len(spoken.samples) < MAX_S * RATE_HZ:
                continue
            num, num_labels = len(spoken.samples), len(spoken.labels)
            items.append([offset, num, label_offset, num_labels, speaker, text])
            samples.append((spoken.samples * 32767).astype(np.int16))
            labels.append(spoken.labels)
            offset, label_offset = offset + num, label_offset + num_labels
        stem = config.out_dir / f"w{index:02d}-{shard:04d}"
        np.concatenate(samples).tofile(stem.with_suffix(".pcm"))
        np.concatenate(labels).tofile(stem.with_suffix(".ph"))
        part = stem.with_suffix(".part")
        part.write_text(json.dumps(items), encoding="utf-8")
        part.rename(stem.with_suffix(".json"))
        made_s, shard = made_s + offset / RATE_HZ, shard + 1


def complete_shards(folder: Path) -> list[Path]:
    """The ``.json`` files of all finished shards, in a fixed order."""
    return sorted(folder.glob("w*.json"))


def main() -> None:
    """Command line of the generator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=100)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speakers", type=int, default=2400)
    parser.add_argument("--flite", type=Path, help="folder of the unpacked flite libraries")
    parser.add_argument("--words", type=Path, default=SYSTEM_WORDS)
    parser.add_argument("--shard-s", type=float, default=240.0)
    args = parser.parse_args()
    started = time.perf_counter()
    config = GeneratorConfig(
        args.out, args.hours, args.speakers, args.seed, shard_s=args.shard_s,
        flite_dir=args.flite, words_path=args.words,
    )  # fmt: skip
    generate(config, args.workers)
    spent_s = time.perf_counter() - started
    print(f"{args.hours:.1f} h in {spent_s:.0f} s: x{args.hours * 3600 / spent_s:.0f} real time")


if __name__ == "__main__":
    main()
