"""Let many listeners ask at once, play back in real time, and tell what they heard.

    python scripts/load_test.py --streams 1,8 --seconds 20              # starts a pocket server
    python scripts/load_test.py --url http://127.0.0.1:8000 --streams 64 --requests 256
    python scripts/load_test.py --model checkpoints/random --force-frames 128 --streams 1,16,64

Every listener streams pcm over HTTP, with texts that nobody spoke before, in named voices and, with
``--new-share`` and ``--repeated-share``, in that of a generated recording it uploads. It plays on
the clock of the sound: when its buffer runs dry before the end, that is an underrun, and the
silence is a gap. Then it asks again.

Weights that were never trained do not end on cue. ``--force-frames N`` gives every answer exactly N
frames: ``min_new_tokens = max_new_tokens = N`` in every request, so the end token cannot be drawn
before and the limit ends it. The work a frame costs is the same.

The last line on stdout is JSON. Client and server share this machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx

from scripts.load.asks import NAMED, Ask, Asks
from scripts.load.figures import level_figures
from scripts.load.listener import Budget, Habits, ask_once, run_level
from scripts.load.plot import svg_of
from scripts.load.server import ServerFailedError, own_server
from scripts.local_http import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import FrameType

DEFAULT_SECONDS = 20.0
EXIT_STOPPED = 143


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        with _stopping_cleanly(), _server(options) as url:
            report = measure(url, options)
    except ServerFailedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    print(table_of(report["levels"]))
    line = json.dumps(report)
    if options.record is not None:
        options.record.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        title = f"{report['server']['model']} on {report['server']['device']}"
        options.plot.write_text(svg_of(report["levels"], title), encoding="utf-8")
    print(line)
    return 0 if all(level["completed"] for level in report["levels"]) else 1


def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run every level against ``url`` and give the whole report."""
    health = _get(url, "/health")
    voices = [voice["name"] for voice in _get(url, "/voices")["voices"]]
    asks = Asks(
        voices,
        new_share=options.new_share,
        repeated_share=options.repeated_share,
        recording_s=options.recording_s,
        seed=options.seed,
    )
    habits = Habits(
        force_frames=options.force_frames,
        prebuffer_s=options.prebuffer_ms / 1000,
        in_real_time=not options.no_playback,
    )
    levels = [_level(url, num_streams, asks, habits, options) for num_streams in options.streams]
    return {
        "what": "listeners over HTTP on loopback, streaming pcm, playing back in real time",
        "note": options.note,
        "machine": machine_facts(),
        "server": {key: health[key] for key in ("model", "device", "precision", "version")},
        "options": {
            "seconds": options.seconds if options.requests is None else None,
            "requests": options.requests,
            "force_frames": options.force_frames,
            "new_share": options.new_share,
            "repeated_share": options.repeated_share,
            "recording_s": options.recording_s,
            "prebuffer_ms": options.prebuffer_ms,
            "ramp_s": options.ramp_s,
            "in_real_time": habits.in_real_time,
            "seed": options.seed,
        },
        "levels": levels,
    }


def machine_facts() -> dict[str, Any]:
    """Tell what the listeners run on."""
    return {
        "system": platform.platform(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
    }


def table_of(levels: Sequence[dict[str, Any]]) -> str:
    """Give the levels as lines for people."""
    head = (
        "streams  asked  done  errors | TTFA ms  p50     p95     p99 | underruns  gaps s | "
        "speech s/s"
    )
    lines = [head, "-" * len(head)]
    for level in levels:
        ttfa = [_ms(level["ttfa_s"][name]) for name in ("p50", "p95", "p99")]
        lines.append(
            f"{level['streams']:7d} {level['requests']:6d} {level['completed']:5d} "
            f"{sum(level['errors'].values()):7d} |         "
            f"{ttfa[0]:>7} {ttfa[1]:>7} {ttfa[2]:>7} | "
            f"{level['underruns']:9d} {level['gap_s']:7.2f} | {level['audio_s_per_s'] or 0:10.2f}"
        )
        lines += [f"        {count} x {error}" for error, count in level["errors"].items()]
    return "\n".join(lines)


def _level(
    url: str, num_streams: int, asks: Asks, habits: Habits, options: argparse.Namespace
) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=300) as client:
            # the first request of a server pays for first calls; it is not counted
            await ask_once(client, Ask(NAMED, "Ready?", options.seed), habits)
        budget = Budget(
            seconds=options.seconds if options.requests is None else None, requests=options.requests
        )
        outcomes, wall_s = await run_level(url, num_streams, asks, budget, habits, options.ramp_s)
        return level_figures(num_streams, outcomes, wall_s)

    figures = asyncio.run(run())
    return {**figures, "server_metrics": _get(url, "/metrics")}


@contextmanager
def _stopping_cleanly() -> Iterator[None]:
    """Let a stop signal end the program as Ctrl-C does, so that no server is left behind."""

    def leave(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(EXIT_STOPPED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _server(options: argparse.Namespace) -> AbstractContextManager[str]:
    if options.url is not None:
        return nullcontext(options.url.rstrip("/"))
    settings = {"MAX_SLOTS": str(max(options.streams)), "LOG_LEVEL": "warning"}
    chosen = {key: value for key, value in settings.items() if key not in os.environ}
    if options.model is not None:
        chosen["MODEL"] = options.model
    return own_server(chosen)


def _get(url: str, path: str) -> dict[str, Any]:
    status, content = fetch(f"{url}{path}", timeout_s=30)
    if status != httpx.codes.OK:
        raise ServerFailedError(f"{url}{path} answered {status}: {content[:300].decode()}")
    return json.loads(content)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f}"


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("numbers of streams start at 1")
    return counts


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError("a share lies between 0 and 1")
    return share


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--url", help="a running server; without it one is started and stopped")
    add("--model", help="MODEL of the started server (default: its settings', the pocket voice)")
    add("--streams", type=_counts, default=[1, 8], help="listeners at a time, e.g. 1,8,64")
    add("--seconds", type=float, default=DEFAULT_SECONDS, help="new requests are made this long")
    add("--requests", type=int, help="so many requests a level instead of --seconds")
    add("--force-frames", type=int, help="exactly so many frames an answer (see above)")
    add("--new-share", type=_share, default=0.0, help="share with a recording never sent before")
    add("--repeated-share", type=_share, default=0.0, help="share with the same recording")
    add("--recording-s", type=float, default=10.0, help="length of the recordings")
    add("--prebuffer-ms", type=float, default=0.0, help="sound gathered before it is played")
    add("--ramp-s", type=float, default=2.0, help="listeners come within this time; 0: at once")
    add("--no-playback", action="store_true", help="ask again at once: what the server can make")
    add("--seed", type=int, default=1, help="of texts, voices and recordings")
    add("--note", default="", help="goes into the record, e.g. what else the machine did")
    add("--record", type=Path, help="write the JSON here as well")
    add("--plot", type=Path, help="write a picture (SVG) here")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
