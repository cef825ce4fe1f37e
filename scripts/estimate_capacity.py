"""Estimate what a cluster for many streams needs, and simulate what routing by voice does in it.

    python scripts/estimate_capacity.py --streams 10000 --per-gpu 100 --per-api 240

The first table is arithmetic on the given figures. The second is a simulation with the project's
own routing rule: streams begin at random, voices are as unequally popular as words are (Zipf), and
every replica remembers the prompts of its latest voices. The last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import itertools
import json
import math
import random
import sys
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backend.replicas.routing import choose

if TYPE_CHECKING:
    from collections.abc import Sequence

STREAM_S = 6.0
"""Mean length of a stream: one stretch of text."""
SPARE = 0.75
"""Share of what a process can do that is planned with."""
PCM_BYTES_PER_S = 2 * 44_100
VOICE_BYTES = 20_000
"""A voice of 20 s: ten codes of two bytes for each of 430 frames, and its text."""
PROMPT_MIB = 50
"""Keys and values that S1-mini keeps of such a voice in bf16."""
STATUS_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Needs:
    """What so many streams need."""

    gpus: int
    api_processes: int
    gbit_per_s: float
    requests_per_s: float
    status_calls_per_s: float
    voice_store_gib: float


@dataclass(frozen=True, slots=True)
class Routed:
    """What became of the streams of a simulation.

    Attributes:
        known_share: Prompts that the replica knew.
        worst_load: Most streams of a replica at any time after the start, over the mean.
        spilled_share: Streams that did not go to their voice's first replica.
    """

    known_share: float
    worst_load: float
    spilled_share: float


def needs(streams: int, per_gpu: float, per_api: float, voices: int) -> Needs:
    """Do the arithmetic.

    Args:
        streams: Listeners at a time, each in real time.
        per_gpu: Streams that one GPU keeps supplied.
        per_api: Seconds of sound a second that one copy of the HTTP side passes on.
        voices: Voices that are kept.
    """
    gpus = math.ceil(streams / (SPARE * per_gpu))
    apis = math.ceil(streams / (SPARE * per_api))
    return Needs(
        gpus=gpus,
        api_processes=apis,
        gbit_per_s=streams * PCM_BYTES_PER_S * 8 / 1e9,
        requests_per_s=streams / STREAM_S,
        status_calls_per_s=gpus * apis / STATUS_EVERY_S,
        voice_store_gib=voices * VOICE_BYTES / (1 << 30),
    )


def simulate(
    num_replicas: int,
    per_replica: int,
    *,
    by_voice: bool,
    num_voices: int = 5000,
    remembered: int = 80,
    num_streams: int = 60_000,
    seed: int = 1,
) -> Routed:
    """Let streams come and go and give what routing did with them.

    Args:
        num_replicas: Replicas.
        per_replica: Streams that each has on the mean.
        by_voice: Route by voice, else to the less loaded of two.
        num_voices: Voices, the n-th 1/n as popular as the first.
        remembered: Voices whose prompts a replica keeps.
        num_streams: Streams in all.
        seed: Of chance.
    """
    rng = random.Random(seed)  # noqa: S311 - a simulation
    popularity = list(itertools.accumulate(1 / rank for rank in range(1, num_voices + 1)))
    loads = {f"r{idx}": 0 for idx in range(num_replicas)}
    names = list(loads)
    caches: dict[str, OrderedDict[str, None]] = {name: OrderedDict() for name in names}
    ends: list[tuple[float, str]] = []
    now_s = worst = 0.0
    num_known = num_spilled = 0
    rate = num_replicas * per_replica / STREAM_S
    settled = num_streams // 3  # before, the cluster fills up
    idle = dict.fromkeys(names, 0)
    for idx in range(num_streams):
        now_s += rng.expovariate(rate)
        while ends and ends[0][0] <= now_s:
            loads[heapq.heappop(ends)[1]] -= 1
        voice = f"v{bisect.bisect(popularity, rng.random() * popularity[-1])}"
        name = choose(voice, loads, per_replica // 2) if by_voice else None
        name = name or min(rng.sample(names, min(2, len(names))), key=lambda one: loads[one])
        loads[name] += 1
        heapq.heappush(ends, (now_s + rng.expovariate(1 / STREAM_S), name))
        is_known = _remember(caches[name], voice, remembered)
        if idx >= settled:
            num_known += is_known
            num_spilled += name != choose(voice, idle, 1)
            worst = max(worst, loads[name] / per_replica)
    counted = num_streams - settled
    return Routed(num_known / counted, worst, num_spilled / counted)


def _remember(cache: OrderedDict[str, None], voice: str, remembered: int) -> bool:
    is_known = voice in cache
    cache[voice] = None
    cache.move_to_end(voice)
    if len(cache) > remembered:
        cache.popitem(last=False)
    return is_known


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--streams", type=int, default=10_000, help="listeners at a time")
    add("--per-gpu", type=float, default=100.0, help="streams that one GPU keeps supplied")
    add("--per-api", type=float, default=240.0, help="seconds of sound a second of one API process")
    add("--voices", type=int, default=100_000, help="voices that are kept")
    add("--simulated-replicas", type=int, default=16, help="replicas of the simulation")
    options = parser.parse_args(arguments)
    found = needs(options.streams, options.per_gpu, options.per_api, options.voices)
    for name, value in asdict(found).items():
        print(f"{name:20s} {value:10.1f}")
    per_replica = round(SPARE * options.per_gpu)
    routed = {
        way: asdict(simulate(options.simulated_replicas, per_replica, by_voice=way == "voice"))
        for way in ("voice", "balanced")
    }
    for way, figures in routed.items():
        print(f"{way:9s}", ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    print(json.dumps({"options": vars(options), "needs": asdict(found), "routing": routed}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
