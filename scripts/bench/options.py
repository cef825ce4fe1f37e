"""The command line of ``scripts/benchmark.py``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from backend.models.host_tables import HOST_TABLES

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
QUANTIZATIONS = ("none", "int8", "nf4")
_SWITCHES = {
    "--resident-kernels": True,
    "--batch-kernels": True,
    "--fused-kernels": True,
    "--codec-fused": True,
    "--cuda-graphs": True,
    "--enable-torch-compile": False,
    "--compile-ahead": True,
}
_DEFAULT_BATCH = {"cuda": 128, "cpu": 4}


def choices(allowed: tuple[str, ...]) -> Any:
    """A command-line type: values of ``allowed``, separated by commas."""

    def parse(text: str) -> list[str]:
        values = [value.strip() for value in text.split(",") if value.strip()]
        wrong = [value for value in values if value not in allowed]
        if wrong or not values:
            raise argparse.ArgumentTypeError(f"choose of {', '.join(allowed)}")
        return values

    return parse


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure how fast this machine speaks.")
    add = parser.add_argument
    add("--model", default="pocket", help="as the setting MODEL")
    add("--random-s1", action="store_true", help="S1-mini's size with random weights")
    add("--device", default="auto", help="as the setting DEVICE")
    add("--threads", type=int, default=0, help="as the setting CPU_THREADS")
    add("--precision", type=choices(PRECISIONS), default=["auto"], help="one or more, with commas")
    add("--quantization", type=choices(QUANTIZATIONS), default=["none"], help="one or more")
    add("--max-batch", type=int, help="largest batch (default: 128 on a card, 4 on a CPU)")
    add("--max-seq-len", type=int, default=1024, help="positions of a slot")
    add("--prompt-positions", type=int, default=250, help="length of the prompts")
    add("--steps", type=int, default=30, help="repetitions of a decode step")
    add("--memory-slots", type=int, default=16, help="slots of the memory measurement; 0: none")
    add("--memory-positions", type=int, default=1024, help="positions of its slots")
    add(
        "--kv-quantization", choices=("none", "int8", "int4"), default="none", help="as the setting"
    )
    add("--host-embeddings", choices=tuple(HOST_TABLES), default="text", help="as the setting")
    add("--encoder-on-host", action="store_true", help="as the setting")
    for name, default in _SWITCHES.items():
        add(name, action=argparse.BooleanOptionalAction, default=default, help="as the setting")
    for name, default in (("--chunk-size", 32), ("--prefix-cache-mb", 128)):
        add(name, type=int, default=default, help="as the setting")
    add("--cap-gb", type=float, help="memory of the card that may be used, in GB")
    add("--against-reference", type=Path, metavar="PYTHON", help="of the official package")
    add(
        "--reference-path", type=Path, metavar="FOLDER",
        help="where its packages lie, if not in PYTHON's environment",
    )  # fmt: skip
    add("--compile-reference", action="store_true", help="with its torch.compile (minutes)")
    add("--out", type=Path, help="write the JSON here too")
    add("--plot", type=Path, help="write a plot here, as SVG")
    options = parser.parse_args(arguments)
    if options.plot and options.plot.suffix.lower() != ".svg":
        parser.error("--plot writes SVG: give a name that ends with .svg")
    if options.max_batch is None:
        on_card = options.device != "cpu" and torch.cuda.is_available()
        options.max_batch = _DEFAULT_BATCH["cuda" if on_card else "cpu"]
    if not 1 <= options.max_batch <= 128 or options.steps < 1:
        parser.error("--max-batch must be 1..128 and --steps at least 1")
    if options.random_s1:
        options.model = "openaudio-s1-mini"
    return options
