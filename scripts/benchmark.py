"""Measure this machine: every stage of the engine, for each precision and quantization.

    python scripts/benchmark.py [--model pocket] [--random-s1] [--precision auto,fp32]
        [--quantization none,int8,nf4] [--max-batch 8] [--plot bench.svg] [--out bench.json]
        [--against-reference PYTHON [--reference-path FOLDER]]

--random-s1 measures S1-mini's real size with random weights (4 GB in a temporary folder), so the
gated download is not needed. --against-reference runs the official package in its own environment
(scripts/make_reference_env.py, or another interpreter and a folder of packages) in the same call.
Needs torch, numpy, safetensors and tiktoken.
Times are medians of calls from an idle device to an idle device, in milliseconds. The last line on
stdout is JSON.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from backend.core.errors import CheckpointError, ConfigurationError, TTSError
from backend.core.model_location import resolve_model_dir
from backend.core.threads import share_interpreter
from backend.engine.lanes import num_streams_of
from backend.engine.memory import free_budget, most_slots, plan_for
from backend.engine.precision import choose_precision, cpu_threads
from backend.models.checkpoint import MODEL_FILES
from backend.models.codec.config import S1_MINI as S1_CODEC
from backend.models.codec.weights import find_codec_file, read_codec_config
from backend.opt_engine import OptimizedEngine
from scripts.bench.engine_settings import engine_settings
from scripts.bench.figures import Bench, all_figures
from scripts.bench.machine import commit, machine, peak_host_mib, versions
from scripts.bench.options import parse_arguments
from scripts.bench.plot import write_plot
from scripts.bench.random_s1 import NEEDED_BYTES, write_random_s1
from scripts.bench.reference import measure_reference, ratios

if TYPE_CHECKING:
    import argparse

    from backend.core.settings import Settings

_MIB = 1 << 20
_SWITCHES = (
    "resident_kernels",
    "batch_kernels",
    "fused_kernels",
    "codec_fused",
    "cuda_graphs",
    "enable_torch_compile",
    "compile_ahead",
)


def settings_of(options: argparse.Namespace, precision: str, quantization: str) -> Settings:
    """Settings of one run; MAX_SLOTS is the largest batch."""
    return engine_settings(
        model=options.model,
        device=options.device,
        mixed_precision=precision,
        quantization=quantization,
        cpu_threads=options.threads,
        max_seq_len=options.max_seq_len,
        max_slots=options.max_batch,
        kv_quantization=options.kv_quantization,
        host_embeddings=options.host_embeddings,
        encoder_on_host=options.encoder_on_host,
        **{name: getattr(options, name) for name in _SWITCHES},
        chunk_size=options.chunk_size,
        prefix_cache_mb=options.prefix_cache_mb,
        memory_budget_mb=int((options.cap_gb or 0) * 1e9) // _MIB,
    )


def model_directory(options: argparse.Namespace, stack: ExitStack) -> Path:
    """Find the model, or make one up.

    Raises:
        CheckpointError: There is none, or no room for a made-up one.
    """
    if not options.random_s1:
        return resolve_model_dir(settings_of(options, "auto", "none"))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="random-s1-")))
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise CheckpointError(
            f"--random-s1 needs {NEEDED_BYTES / _MIB:,.0f} MiB in {folder.parent} and there are "
            f"{free / _MIB:,.0f}; set TMPDIR to a larger disk"
        )
    device = choose_precision(settings_of(options, "auto", "none")).device
    return write_random_s1(folder / "random-s1", device)


def batches_up_to(most: int) -> list[int]:
    """1, 2, 4 and so on, and ``most`` itself."""
    return sorted({*(1 << shift for shift in range(most.bit_length())), most})


def fit(settings: Settings, directory: Path) -> Settings:
    """Take as many slots as the free memory holds; see ``require_fit`` for none."""
    precision = choose_precision(settings)
    budget = settings.memory_budget_mb * _MIB or free_budget(precision.device)
    plan = plan_for(settings, precision, directory)
    slots = settings.max_slots if budget is None else most_slots(plan, budget)
    if 0 < slots < settings.max_slots:
        print(f"memory holds {slots} slots of {settings.max_seq_len} positions, not more")
        changed = {name: getattr(settings, name) for name in _varied()}
        return engine_settings(**{**changed, "max_slots": slots})
    return settings


def measure_run(options: argparse.Namespace, directory: Path, settings: Settings) -> dict[str, Any]:
    """All figures of one precision and quantization.

    Raises:
        TTSError: The engine does not start or fails.
    """
    settings = fit(settings, directory)
    engine, start = _start(settings, directory)
    try:
        bench = Bench(engine, options.steps, options.prompt_positions)
        figures = all_figures(bench, batches_up_to(settings.max_slots))
        info, memory = engine.info, engine.memory_bytes()
    finally:
        engine.close()
    del engine, bench
    _forget()
    return {
        "precision": info.precision,
        "quantization": info.quantization,
        "max_slots": settings.max_slots,
        "max_seq_len": settings.max_seq_len,
        "threads": torch.get_num_threads(),
        "notes": list(info.notes),
        **start,
        **figures,
        "frame_rate": info.frame_rate,
        "kv_quantization": settings.kv_quantization,
        "num_streams": num_streams_of(settings),
        **{name: getattr(settings, name) for name in _SWITCHES},
        "peak_memory_mib": _mib(memory[1]),
        "peak_reserved_mib": _mib(_peak_reserved()),
        "planned_memory_mib": _mib(sum(info.memory_plan.values())),
        "small_memory": _small_memory(options, directory, settings),
    }


def _small_memory(
    options: argparse.Namespace, directory: Path, settings: Settings
) -> dict[str, Any] | None:
    """Peak memory of an engine of a given size, in its own life; None on a CPU or unasked."""
    if choose_precision(settings).device.type != "cuda" or not options.memory_slots:
        return None
    changed = {name: getattr(settings, name) for name in _varied()}
    slots, positions = options.memory_slots, options.memory_positions
    small = engine_settings(**{**changed, "max_slots": slots, "max_seq_len": positions})
    engine, _ = _start(small, directory)
    try:
        Bench(engine, 1, min(options.prompt_positions, positions // 4)).fill(slots)
        peak, reserved = engine.memory_bytes()[1], _peak_reserved()
        planned = sum(engine.info.memory_plan.values())
    finally:
        engine.close()
    del engine
    _forget()
    return {
        "slots": slots,
        "positions": positions,
        "peak_mib": _mib(peak),
        "peak_reserved_mib": _mib(reserved),
        "planned_mib": _mib(planned),
    }


def _start(settings: Settings, directory: Path) -> tuple[OptimizedEngine, dict[str, float]]:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    engine = OptimizedEngine.load(settings, directory)
    loaded = time.perf_counter()
    engine.warm_up()
    warm = time.perf_counter()
    while engine.prepare_one():  # a server does this once it is ready, while nobody speaks
        pass
    return engine, {"load_s": round(loaded - started, 2), "start_s": round(warm - started, 2)}


def _peak_reserved() -> int | None:
    """Most that PyTorch took of the card, unused parts included; None on a CPU."""
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None


def cap_memory(options: argparse.Namespace) -> None:
    """Let PyTorch have no more of the card than ``--cap-gb``, as on a small card.

    What the driver keeps for the process (0.85 GB on an H200) is not part of it.

    Raises:
        ConfigurationError: There is no card.
    """
    if options.cap_gb is None:
        return
    device = choose_precision(settings_of(options, "auto", "none")).device
    if device.type != "cuda":
        raise ConfigurationError("--cap-gb caps the memory of a card, and there is none")
    share = options.cap_gb * 1e9 / torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, share), device)


def _forget() -> None:
    """Give the memory of a closed engine back, so that the next one is measured alone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _varied() -> tuple[str, ...]:
    return (
        *("model", "device", "mixed_precision", "quantization"),
        *("cpu_threads", "max_seq_len", "max_slots", "kv_quantization", "host_embeddings"),
        *("encoder_on_host", "chunk_size", "prefix_cache_mb", "memory_budget_mb"),
        *_SWITCHES,
    )


def _mib(num_bytes: int | None) -> float | None:
    return None if num_bytes is None else round(num_bytes / _MIB, 1)


def reference_figures(
    options: argparse.Namespace, directory: Path, stack: ExitStack
) -> dict[str, Any]:
    """The official package with the same weights on the same device, in the first precision."""
    settings = settings_of(options, options.precision[0], "none")
    precision = choose_precision(settings)
    official = directory
    if not (directory / MODEL_FILES[1]).is_file():
        from scripts.convert_checkpoint import main as convert

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="official-")))
        official = folder / "official"
        if convert([str(directory), str(official), "--to", "official"]):
            raise ConfigurationError("the official package needs the official form; see above")
    job = {
        "directory": str(official),
        "device": str(precision.device),
        "dtype": precision.name,
        "compile": options.compile_reference,
        "threads": cpu_threads(settings),
        "prompt_positions": options.prompt_positions,
        "steps": options.steps,
        "codec": read_codec_config(find_codec_file(directory)) == S1_CODEC,
    }
    figures = measure_reference(options.against_reference, job, options.reference_path)
    return {"dtype": precision.name, **figures}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything the command line asks for."""
    report: dict[str, Any] = {
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "model": "random weights at S1-mini's size" if options.random_s1 else options.model,
        "cap_gb": options.cap_gb,
        "runs": [],
    }
    with ExitStack() as stack:
        directory = model_directory(options, stack)
        _forget()
        cap_memory(options)
        for precision in options.precision:
            for quantization in options.quantization:
                name = f"{precision} {quantization}"
                print(f"measuring {name} ...", flush=True)
                try:
                    settings = settings_of(options, precision, quantization)
                    run = measure_run(options, directory, settings)
                except TTSError as error:
                    run = {
                        "precision": precision,
                        "quantization": quantization,
                        "error": str(error),
                    }
                    _forget()
                report["runs"].append(run)
                print_run(run)
        report["peak_host_mib"] = peak_host_mib()
        if options.against_reference:
            print("measuring the official package ...", flush=True)
            report["reference"] = reference_figures(options, directory, stack)
            print_rows(report["reference"])
            good = [run for run in report["runs"] if "error" not in run]
            report["ratios"] = {
                f"{run['precision']} {run['quantization']}": ratios(report["reference"], run)
                for run in good
            }
            print_rows(report["ratios"])
    return report


def print_run(run: dict[str, Any]) -> None:
    """A run as a table."""
    print_rows({name: value for name, value in run.items() if value not in (None, [])})


def print_rows(rows: dict[str, Any]) -> None:
    """Name and value, one pair a line; batches beside each other."""
    for name, value in rows.items():
        shown = value
        if isinstance(value, dict):
            shown = "  ".join(f"{key}: {each}" for key, each in value.items())
        print(f"  {name:26}{shown}")


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the plot of all runs that were measured."""
    good = [run for run in report["runs"] if "error" not in run]
    curves = {
        f"{run['precision']} {run['quantization']}": {
            int(batch): ms for batch, ms in run["decode_step_ms"].items()
        }
        for run in good
    }
    cards = report["machine"]["cards"]
    on_card = cards and any(run["peak_memory_mib"] is not None for run in good)
    name = cards[0]["name"] if on_card else report["machine"]["cpu"]
    write_plot(path, curves, good[0]["frame_rate"], f"{report['model']} on {name}")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the last line is JSON."""
    options = parse_arguments(arguments)
    try:
        report = measure(options)
    except (TTSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    measured = any("error" not in run for run in report["runs"])
    if options.plot and measured:
        draw(report, options.plot)
    text = json.dumps(report)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if measured else 1


if __name__ == "__main__":
    share_interpreter()  # as the engine's own process does
    sys.exit(main())
