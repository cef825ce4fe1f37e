"""Start the real service on a card at S1-mini's size and measure it over HTTP, case by case.

    python scripts/load_card.py --record h200_load.json --plot h200_load.svg
    python scripts/load_card.py --model pocket --cases one,files --frames 40      # try it on a CPU

The weights are random (speed does not depend on them) and are written to a temporary folder, with
eight voices of 10 s. Random weights never end by themselves, so every answer has exactly
``--frames`` frames: ``min_new_tokens = max_new_tokens`` in every request. ``SPEECH_GUARD`` is off,
since noise is what it would cut. Client and server share the machine's cores. Many listeners sit in
several processes (``--processes``): one alone takes longer to ask than the server to answer.

The last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx

from scripts.load.asks import NAMED, NEW, Ask, Asks
from scripts.load.crowd import Crowd, gathered
from scripts.load.figures import level_figures
from scripts.load.listener import Budget, Habits, ask_once, run_level
from scripts.load.plot import svg_of
from scripts.load.server import ServerFailedError, own_server
from scripts.load_test import machine_facts, table_of
from scripts.local_http import fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

SETTLING_S = 60.0
"""Longest wait for the captures that a server makes in its first quiet moments."""
MOST_PROCESSES = 8
_STAGE_SUM = re.compile(r'^tts_stage_seconds_sum\{stage="(\w+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement.

    Attributes:
        name: In the record.
        streams: Listeners at a time.
        requests: Answers in all.
        ramp_s: The listeners come within this time.
        new_share: Share of requests with a voice that was never heard before.
        in_real_time: Listeners play what they hear before they ask again.
        is_streaming: Else whole files are asked for.
        frame_factor: Answers are so many times as long.
    """

    name: str
    streams: int
    requests: int
    ramp_s: float = 0.0
    new_share: float = 0.0
    in_real_time: bool = True
    is_streaming: bool = True
    frame_factor: int = 1


CASES = (
    Case("one", 1, 20, in_real_time=False),
    Case("new voice", 1, 15, new_share=1.0, in_real_time=False),
    Case("16", 16, 32, ramp_s=2.0),
    Case("64", 64, 128, ramp_s=4.0),
    Case("64 at once", 64, 64),
    Case("128", 128, 192, ramp_s=6.0),
    Case("files", 128, 384, in_real_time=False, is_streaming=False, frame_factor=2),
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    cases = [case for case in CASES if options.cases is None or case.name in options.cases]
    try:
        with ExitStack() as stack:
            started = time.perf_counter()
            url = stack.enter_context(
                own_server(_settings(options, stack), keep_log=options.server_log)
            )
            start_s = time.perf_counter() - started
            report = _measure(url, cases, options, start_s)
    except ServerFailedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.record is not None:
        options.record.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        heard = [level for level in report["levels"] if level["case"] != "files"]
        options.plot.write_text(svg_of(heard, f"{report['device_name']}, S1-mini's size"), "utf-8")
    print(json.dumps(report))
    return 0 if all(level["completed"] for level in report["levels"]) else 1


def _measure(
    url: str, cases: Sequence[Case], options: argparse.Namespace, start_s: float
) -> dict[str, Any]:
    health = _get(url, "/health")
    voices = [voice["name"] for voice in _get(url, "/voices")["voices"]]
    _settle(url, voices, options)
    levels: list[dict[str, Any]] = []
    for case in cases:
        levels.append(_run(url, case, voices, options))
        print(table_of(levels[-1:]), flush=True)
        print(f"  {case.name}: engine's time by stage: {levels[-1]['stages_s']}", flush=True)
    return {
        "what": "the service on a card: listeners over HTTP on loopback, pcm",
        "weights": "random, S1-mini's size" if options.model is None else options.model,
        "lengths": f"forced to {options.frames} frames (files: twice that): weights that were "
        "never trained do not end by themselves",
        "note": options.note,
        "machine": machine_facts(),
        "device_name": health["gpus"][0]["name"] if health["gpus"] else health["device"],
        "server": {key: health[key] for key in ("model", "device", "precision", "version")},
        "start_s": round(start_s, 1),
        "levels": levels,
    }


def _run(
    url: str, case: Case, voices: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    seed = len(case.name) * 1000
    habits = Habits(
        force_frames=options.frames * case.frame_factor,
        in_real_time=case.in_real_time,
        is_streaming=case.is_streaming,
    )
    budget = Budget(seconds=None, requests=case.requests)
    processes = min(options.processes, case.streams) if not case.new_share else 1
    if processes > 1:
        crowd = Crowd(
            url, processes, case.streams, case.requests, tuple(voices), habits, case.ramp_s, seed
        )
        with gathered(crowd) as listen:
            before = _stage_sums(url)
            outcomes, wall_s = listen()
    else:
        asks = Asks(voices, new_share=case.new_share, recording_s=10.0, seed=seed)
        before = _stage_sums(url)
        outcomes, wall_s = asyncio.run(
            run_level(url, case.streams, asks, budget, habits, case.ramp_s)
        )
    spent = {
        stage: round(total_s - before.get(stage, 0.0), 3)
        for stage, total_s in _stage_sums(url).items()
    }
    figures = level_figures(case.streams, outcomes, wall_s)
    return {
        "case": case.name,
        "processes": processes,
        **figures,
        "stages_s": spent,
        "metrics": _get(url, "/metrics"),
    }


def _settle(url: str, voices: Sequence[str], options: argparse.Namespace) -> None:
    """Speak once in every voice and once in a new one, then wait until nothing is captured."""

    async def ask_all() -> None:
        habits = Habits(force_frames=options.frames, in_real_time=False)
        asks = [Ask(NAMED, "Ready?", 1, voice=voice) for voice in voices]
        new = Asks((), new_share=1.0, seed=77).next()
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=300) as client:
            for ask in [*asks, Ask(NEW, new.text, 1, recording=new.recording)]:
                await ask_once(client, ask, habits)

    asyncio.run(ask_all())
    ends_at = time.monotonic() + SETTLING_S
    quiet = 0
    while quiet < 3 and time.monotonic() < ends_at:
        # memory grows with every capture
        before = _get(url, "/metrics")["engine"]["memory_bytes"]
        time.sleep(1.0)
        quiet = quiet + 1 if _get(url, "/metrics")["engine"]["memory_bytes"] == before else 0


def _settings(options: argparse.Namespace, stack: ExitStack) -> dict[str, str]:
    settings: dict[str, str] = {
        "MAX_SLOTS": "128",
        "MAX_SEQ_LEN": "1024",
        "MAX_QUEUE": "1024",
        "PREFIX_CACHE_MB": "2048",
        "SPEECH_GUARD": "false",
        "LOG_LEVEL": "warning",
    }
    settings["MODEL"] = options.model or _random_model(stack)
    return {key: os.environ.get(key, value) for key, value in settings.items()}


def _random_model(stack: ExitStack) -> str:
    # here, not at the top: only this needs torch
    import torch

    from scripts.bench.random_s1 import write_random_s1, write_random_voices

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="random-s1-")))
    directory = write_random_s1(folder / "random-s1", torch.device("cuda"))
    torch.cuda.empty_cache()
    write_random_voices(directory)
    return str(directory)


def _stage_sums(url: str) -> dict[str, float]:
    """Give the seconds that every stage has taken in all; shares of a batch add up to its time."""
    content = fetch(f"{url}/metrics/prometheus", timeout_s=30)[1].decode()
    return {stage: float(total) for stage, total in _STAGE_SUM.findall(content)}


def _get(url: str, path: str) -> dict[str, Any]:
    status, content = fetch(f"{url}{path}", timeout_s=30)
    if status != httpx.codes.OK:
        raise ServerFailedError(f"{url}{path} answered {status}: {content[:300].decode()}")
    return json.loads(content)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = ", ".join(case.name for case in CASES)
    add("--model", help="another model than random weights, e.g. pocket")
    add("--cases", type=lambda text: text.split(","), help=f"some of: {names}")
    add("--frames", type=int, default=128, help="frames of an answer (46 ms each for S1-mini)")
    most = max(1, min(MOST_PROCESSES, (os.cpu_count() or 1) // 2))
    add("--processes", type=int, default=most, help=f"of the listeners (here {most})")
    add("--note", default="", help="goes into the record")
    add("--record", type=Path, help="write the JSON here as well")
    add("--plot", type=Path, help="write a picture (SVG) here")
    add("--server-log", type=Path, help="keep the server's log here")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
