"""Measure the cluster: routing by voice, what further copies bring, what the way in costs.

    python scripts/benchmark_cluster.py routing --replicas 2
    python scripts/benchmark_cluster.py scaling --layouts 1x1,2x2 --random-s1 --force-frames 128
    python scripts/benchmark_cluster.py ingress

It runs in a Python that has Ray (``.venv-cluster``) and starts every server itself. A layout
``2x3`` is two copies of the engine and three of the HTTP side; ``plain`` is the server without Ray.
With weights that were never trained give ``--force-frames`` (see ``scripts/load_test.py``).

The last line on stdout is JSON; with ``--record`` it is written to a file after every step. A
layout that fails, or does not come up within ``--layout-limit-s``, is told in the record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx

from scripts.bench.machine import commit, machine, versions
from scripts.load.asks import NAMED, Ask
from scripts.load.cpu_time import cpu_seconds
from scripts.load.crowd import Crowd, run_crowd
from scripts.load.listener import Habits, ask_once
from scripts.load.server import ServerFailedError, own_server
from scripts.local_http import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PLAIN = "plain"
MODES = ("real_time", "at_once")
"""Listeners who play what they hear, and such that ask again at once."""
SEEDS = {"real_time": 100_000, "at_once": 200_000}
WARM_UP_SEED = 300_000
"""Far apart: nobody asks for what was asked before, which the service would remember."""
KINDS = {"proxy": "ray::ProxyActor", "api": "ray::ServeReplica:speech:api"}
"""Processes on the way in, by the beginning of their titles."""
CAPACITY_LIMIT_S = 600.0
COUNTERS_LIMIT_S = 30.0
AT_ONCE_FACTOR = 4
"""Listeners who do not play but ask again at once are through with their answers much sooner."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    report: dict[str, Any] = {
        "what": options.what,
        "machine": machine(),
        "versions": versions(),
        "commit": options.commit or commit(),
        "note": options.note,
    }
    try:
        for key, value in STEPS[options.what](options):
            report[key] = value
            if options.record is not None:
                options.record.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except ServerFailedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    print(json.dumps(report))
    return 0


def routing(options: argparse.Namespace) -> Any:
    """Ask in ten voices by both ways of routing; yield the prompts that a replica knew already."""
    for way in ("voice", "balanced"):
        settings = {"CLUSTER_ROUTING": way, **_layout_settings(options, options.replicas, 1)}
        with own_server(settings, "backend.cluster") as url:
            wait_for_capacity(url, options.replicas * options.slots)
            voices = _voices(url)
            before = prefix_counters(url)
            asyncio.run(_ask_all(url, voices, options))
            hits, misses = _counted(url, before, options.requests)
        print(f"routing by {way:9s} {hits} of {hits + misses} prompts known", flush=True)
        figures = {"requests": options.requests, "voices": len(voices), "hits": hits}
        yield way, {**figures, "misses": misses, "concurrent": options.concurrent}


def scaling(options: argparse.Namespace) -> Any:
    """Measure every layout at the same number of streams for each replica; yield the levels.

    Raises:
        ServerFailedError: No layout could be measured to its end.
    """
    yield "options", {key: _plain(value) for key, value in vars(options).items()}
    levels: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        if options.random_s1:
            options.model = _random_model(stack)
        for layout in options.layouts:
            try:
                for level in _layout_levels(layout, options):
                    levels[layout] = level
                    yield "levels", levels
                    yield "efficiency", {mode: efficiencies(levels, mode) for mode in MODES}
            except (ServerFailedError, httpx.HTTPError, OSError) as error:
                failed[layout] = str(error)
                sys.stderr.write(f"{layout} failed: {error}\n")
                yield "failed", failed
    if len(failed) == len(options.layouts):
        raise ServerFailedError("no layout was measured")


def _layout_levels(layout: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Start one layout; yield what is known of it after each step."""
    num_replicas, num_apis = layout_of(layout)
    module = "backend.app" if layout == PLAIN else "backend.cluster"
    log = None if options.logs is None else options.logs / f"server_{layout}.log"
    started = time.monotonic()
    settings = _layout_settings(options, num_replicas, num_apis)
    with own_server(settings, module, log, options.layout_limit_s) as url:
        left_s = options.layout_limit_s - (time.monotonic() - started)
        wait_for_capacity(url, num_replicas * options.slots, left_s)
        figures: dict[str, Any] = {"ready_s": time.monotonic() - started}
        print(f"{layout:6s} ready after {figures['ready_s']:.0f} s", flush=True)
        for mode in MODES:
            figures[mode] = _measure(url, num_replicas, mode, options)
            print(f"{layout:6s} {line_of(mode, figures[mode])}", flush=True)
            yield figures
        figures["server_metrics"] = _get(url, "/metrics")
    yield figures


def ingress(options: argparse.Namespace) -> Any:
    """Yield the CPU seconds that each kind of process on the way in spends on a second of sound."""
    with own_server(_layout_settings(options, 1, 1), "backend.cluster") as url:
        wait_for_capacity(url, options.slots)
        habits = Habits(force_frames=options.force_frames, in_real_time=False)
        crowd = Crowd(url, 1, options.streams, options.requests, tuple(_voices(url)), habits, 0.0)
        before = cpu_seconds(KINDS)
        level = run_crowd(crowd)
        after = cpu_seconds(KINDS)
    yield "level", level
    yield (
        "cpu_s_per_audio_s",
        {kind: (after[kind] - before[kind]) / level["audio_s"] for kind in KINDS},
    )


def layout_of(layout: str) -> tuple[int, int]:
    """Give the copies of the engine and of the HTTP side."""
    if layout == PLAIN:
        return 1, 1
    replicas, _, apis = layout.partition("x")
    return int(replicas), int(apis or 1)


def efficiencies(levels: dict[str, Any], mode: str) -> dict[str, float]:
    """Give, for each layout, its speech a second over that of one replica times its replicas."""
    known = {name: level[mode]["audio_s_per_s"] for name, level in levels.items() if mode in level}
    one = next((name for name in known if name != PLAIN and layout_of(name)[0] == 1), None)
    if one is None:
        return {}
    return {name: rate / (known[one] * layout_of(name)[0]) for name, rate in known.items()}


def line_of(mode: str, level: dict[str, Any]) -> str:
    """Give one level in a line for people."""
    ttfa = level["ttfa_s"]
    return (
        f"{mode:9s} {level['streams']:4d} streams: {level['audio_s_per_s'] or 0:7.1f} s/s, TTFA "
        f"p50 {1000 * (ttfa['p50'] or 0):.0f} ms, p95 {1000 * (ttfa['p95'] or 0):.0f} ms, "
        f"{level['underruns']} underruns, {sum(level['errors'].values())} errors"
    )


def wait_for_capacity(url: str, num_slots: int, limit_s: float = CAPACITY_LIMIT_S) -> None:
    """Wait until all replicas are there.

    Raises:
        ServerFailedError: They are not after ``limit_s``.
    """
    deadline = time.monotonic() + limit_s
    while _get(url, "/health")["queue"]["max_running"] < num_slots:
        if time.monotonic() > deadline:
            raise ServerFailedError(f"not {num_slots} slots after {limit_s:.0f} s")
        time.sleep(0.5)


def prefix_counters(url: str) -> tuple[int, int]:
    """Give hits and misses of the prompts' cache, of all replicas."""
    counters = _get(url, "/metrics")["caches"]["prefix_kv"]
    return counters["hits"], counters["misses"]


def _counted(url: str, before: tuple[int, int], num_requests: int) -> tuple[int, int]:
    """Wait until the replicas have reported every request: they are asked now and then."""
    deadline = time.monotonic() + COUNTERS_LIMIT_S
    while True:
        now = prefix_counters(url)
        hits, misses = now[0] - before[0], now[1] - before[1]
        if hits + misses >= num_requests or time.monotonic() > deadline:
            return hits, misses
        time.sleep(0.2)


async def _ask_all(url: str, voices: Sequence[str], options: argparse.Namespace) -> None:
    """Ask in every voice in turn, so many at a time."""
    gate = asyncio.Semaphore(options.concurrent)
    habits = Habits(force_frames=options.force_frames, in_real_time=False)

    async def ask(client: httpx.AsyncClient, idx: int) -> None:
        async with gate:
            text = f"This is sentence number {idx}."
            outcome = await ask_once(
                client, Ask(NAMED, text, idx, voice=voices[idx % len(voices)]), habits
            )
        if outcome.error is not None:
            raise ServerFailedError(f"request {idx} failed: {outcome.error}")

    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=300) as client:
        await asyncio.gather(*(ask(client, idx) for idx in range(options.requests)))


def _measure(url: str, num_replicas: int, mode: str, options: argparse.Namespace) -> dict[str, Any]:
    in_real_time = mode == "real_time"
    crowd = Crowd(
        url,
        num_processes=num_replicas * options.clients,
        num_streams=num_replicas * options.streams,
        num_requests=num_replicas * options.requests * (1 if in_real_time else AT_ONCE_FACTOR),
        voices=tuple(_voices(url)),
        habits=Habits(force_frames=options.force_frames, in_real_time=in_real_time),
        ramp_s=options.ramp_s if in_real_time else 0.0,
        seed=SEEDS[mode],
    )
    if options.warm_up and in_real_time:
        run_crowd(replace(crowd, num_requests=crowd.num_streams, seed=WARM_UP_SEED))
    return run_crowd(crowd)


def _random_model(stack: ExitStack) -> str:
    """Write a model of S1-mini's size with random weights and voices; give its folder."""
    # here, not at the top: only this needs a card
    import torch

    from scripts.bench.random_s1 import write_random_s1, write_random_voices

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="random-s1-")))
    directory = write_random_s1(folder / "random-s1", torch.device("cuda"))
    torch.cuda.empty_cache()
    write_random_voices(directory)
    return str(directory)


def _layout_settings(
    options: argparse.Namespace, num_replicas: int, num_apis: int
) -> dict[str, str]:
    chosen = {
        "CLUSTER_REPLICAS": num_replicas,
        "CLUSTER_API_REPLICAS": num_apis,
        "MAX_SLOTS": options.slots,
        "MAX_JOBS": 0,
        "LOG_LEVEL": "warning",
    }
    if options.model is not None:
        chosen["MODEL"] = options.model
    return {key: str(value) for key, value in chosen.items()}


def _voices(url: str) -> list[str]:
    return [voice["name"] for voice in _get(url, "/voices")["voices"]]


def _get(url: str, path: str) -> dict[str, Any]:
    status, content = fetch(f"{url}{path}", timeout_s=30)
    if status != httpx.codes.OK:
        raise ServerFailedError(f"{url}{path} answered {status}: {content[:300].decode()}")
    return json.loads(content)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _layouts(text: str) -> list[str]:
    layouts = text.split(",")
    for layout in layouts:
        if min(layout_of(layout)) < 1:
            raise argparse.ArgumentTypeError("a layout is REPLICASxAPIS or plain")
    return layouts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    by_voice = commands.add_parser("routing", help="known prompts with and without voice routing")
    by_voice.add_argument("--replicas", type=int, default=2, help="copies of the engine")
    by_voice.add_argument("--concurrent", type=int, default=4, help="requests at a time")
    by_voice.set_defaults(requests=80, slots=4)
    scale = commands.add_parser("scaling", help="speech a second over copies of the engine")
    scale.add_argument("--layouts", type=_layouts, default=["1x1", "2x2"], help="see above")
    scale.add_argument("--streams", type=int, default=64, help="listeners for each replica")
    scale.add_argument("--clients", type=int, default=1, help="processes of listeners, likewise")
    scale.add_argument("--ramp-s", type=float, default=2.0, help="within which they come")
    scale.add_argument("--warm-up", action="store_true", help="ask once per listener first")
    scale.add_argument("--random-s1", action="store_true", help="S1-mini's size, random weights")
    scale.add_argument("--layout-limit-s", type=float, default=600.0, help="to be ready within")
    scale.add_argument("--logs", type=Path, help="keep the servers' logs in this folder")
    scale.set_defaults(requests=192, slots=96)
    way_in = commands.add_parser("ingress", help="CPU time of proxy and API for each second")
    way_in.add_argument("--streams", type=int, default=4, help="listeners at a time")
    way_in.set_defaults(requests=60, slots=4)
    for command in (by_voice, scale, way_in):
        command.add_argument("--slots", type=int, help="MAX_SLOTS of every replica")
        command.add_argument("--requests", type=int, help="requests; for scaling per replica")
        command.add_argument("--model", help="MODEL (default: its setting's, the pocket voice)")
        command.add_argument("--force-frames", type=int, help="exactly so many frames an answer")
        command.add_argument("--note", default="", help="goes into the record")
        command.add_argument("--commit", default="", help="where there is no git to ask")
        command.add_argument("--record", type=Path, help="write the JSON here as well")
    return parser


STEPS = {"routing": routing, "scaling": scaling, "ingress": ingress}


if __name__ == "__main__":
    raise SystemExit(main())
