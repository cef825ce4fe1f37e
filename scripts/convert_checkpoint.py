"""Turn a model directory into our safetensors form, or back into the official one.

    python scripts/convert_checkpoint.py SRC DST [--to safetensors|official]
        [--dtype keep|fp32|bf16|fp16] [--quantize int8|nf4] [--lora FILE] [--lora-alpha N]

The result holds the same names: ``config.json``, the tokenizer, both weight files, and whatever
else small lies in SRC. Training prefixes, unused tensors and separate q, k, v are settled on the
way; LoRA updates (inside the checkpoint, or in FILE beside a full one) are merged. With --quantize
the linear layers are stored with 8 or 4 bits a weight, for QUANTIZATION=int8 or nf4. The codec
keeps its own precision. The last line on stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from backend.core.errors import CheckpointError
from backend.models.adapters import lora_alpha, merge_lora, official_names
from backend.models.checkpoint import describe_checkpoint, revision
from backend.models.codec.config import S1_MINI
from backend.models.codec.weights import read_codec, save_codec, unfold_weight_norm
from backend.models.config import DualARConfig
from backend.models.dual_ar import DualAR
from backend.models.quantization import SCHEMES, linear_names, quantize_tensors
from backend.models.tensor_files import (
    NO_QUANTIZATION,
    QUANTIZATION_KEY,
    check_fit,
    read_tensor_file,
    write_safetensors,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WEIGHT_SUFFIXES = {".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".partial"}


def read_dual_ar(source: Path, lora: Path | None, alpha: float | None) -> dict[str, Tensor]:
    """Read the dual-AR weights of a directory under their official names, LoRA merged.

    Args:
        source: A model directory.
        lora: A file with LoRA updates for it, if they are not inside.
        alpha: Scale of the updates; default: what their file records.

    Raises:
        CheckpointError: The weights do not fit the configuration, or cannot be merged.
    """
    files = describe_checkpoint(source)
    opened = read_tensor_file(files.model)
    tensors, metadata = dict(official_names(opened.tensors)), opened.metadata
    if lora is not None:
        updates = read_tensor_file(lora)
        tensors |= official_names(updates.tensors)
        metadata = updates.metadata
    merged = merge_lora(tensors, alpha if alpha is not None else lora_alpha(metadata))
    with torch.device("meta"):
        module = DualAR(DualARConfig.from_file(files.config))
    check_fit(module, merged, str(files.model))
    return merged


def quantized(tensors: Mapping[str, Tensor], source: Path, scheme: str) -> dict[str, Tensor]:
    """Codes and scales of the linear layers, by the names that the loader expects."""
    with torch.device("meta"):
        module = DualAR(DualARConfig.from_file(describe_checkpoint(source).config))
    return quantize_tensors(tensors, linear_names(module), scheme)


def in_precision(
    tensors: Mapping[str, Tensor], dtype: torch.dtype | None, kept: Collection[str] = ()
) -> dict[str, Tensor]:
    """Convert floating-point tensors but those in ``kept``; ``None`` keeps them all.

    Raises:
        CheckpointError: A number is too large for ``dtype``.
    """
    if dtype is None:
        return dict(tensors)
    converted = {
        name: value.to(dtype) if value.is_floating_point() and name not in kept else value
        for name, value in tensors.items()
    }
    for name, value in converted.items():
        if not bool(torch.isfinite(value.sum(dtype=torch.float32))):
            raise CheckpointError(f"{name} is not finite in {dtype}; choose --dtype bf16 or fp32")
    return converted


def write_pickle(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write the official container; the file appears under its name only when it is complete."""
    partial = path.with_name(path.name + ".partial")
    try:
        # clone: torch.save would store the whole mapped file behind each view
        torch.save({name: value.clone() for name, value in tensors.items()}, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_dual_ar(
    tensors: Mapping[str, Tensor], folder: Path, form: str, scheme: str = NO_QUANTIZATION
) -> Path:
    """Write the dual-AR weights in one of the two forms; return the file."""
    if form == "official":
        path = folder / "model.pth"
        write_pickle(tensors, path)
        return path
    path = folder / "model.safetensors"
    write_safetensors(tensors, path, {QUANTIZATION_KEY: scheme})
    return path


def write_codec(source: Path, folder: Path, form: str) -> Path:
    """Write the codec in one of the two forms; return the file.

    The official form has no place for a codec's sizes, so a codec of other sizes than S1-mini's
    stays in ours.
    """
    file = describe_checkpoint(source).codec
    config, tensors = read_codec(file)
    if form == "official" and config == S1_MINI:
        path = folder / "codec.pth"
        write_pickle(unfold_weight_norm(tensors), path)
        return path
    path = folder / "codec.safetensors"
    save_codec(path, config, tensors)
    return path


def copy_companions(source: Path, folder: Path) -> None:
    """Copy what is not a weight file: configuration, tokenizer, licence, built-in voices."""
    for entry in sorted(source.iterdir()):
        if entry.name.startswith(".") or entry.suffix in WEIGHT_SUFFIXES:
            continue
        if entry.is_dir():
            shutil.copytree(entry, folder / entry.name, dirs_exist_ok=True)
        else:
            shutil.copy2(entry, folder / entry.name)


def convert(options: argparse.Namespace) -> dict[str, object]:
    """Carry out the command line; return the facts to print.

    Raises:
        CheckpointError: SRC cannot be read, or DST is SRC or holds weights already.
    """
    source, folder = options.source.resolve(), options.destination.resolve()
    if source == folder or source in folder.parents:
        raise CheckpointError(f"DST must be outside SRC: {folder}")
    if folder.is_dir() and any(entry.suffix in WEIGHT_SUFFIXES for entry in folder.iterdir()):
        raise CheckpointError(f"{folder} holds weight files already; choose an empty folder")
    if options.to == "official" and options.quantize != NO_QUANTIZATION:
        raise CheckpointError("the official form has no quantized weights; leave --to official out")
    plain = tensors = read_dual_ar(source, options.lora, options.lora_alpha)
    if options.quantize != NO_QUANTIZATION:
        tensors = quantized(plain, source, options.quantize)
    tensors = in_precision(tensors, DTYPES.get(options.dtype), tensors.keys() - plain.keys())
    folder.mkdir(parents=True, exist_ok=True)
    copy_companions(source, folder)
    model = write_dual_ar(tensors, folder, options.to, options.quantize)
    codec = write_codec(source, folder, options.to)
    return {
        "destination": str(folder),
        "model": model.name,
        "quantization": options.quantize,
        "model_bytes": model.stat().st_size,
        "codec": codec.name,
        "codec_bytes": codec.stat().st_size,
        "revision": revision(folder),
    }


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Convert a model directory between its two forms.")
    add = parser.add_argument
    add("source", type=Path, help="a model directory")
    add("destination", type=Path, help="a new folder")
    add("--to", choices=("safetensors", "official"), default="safetensors", help="form to write")
    add("--dtype", choices=("keep", *DTYPES), default="keep", help="of the dual-AR weights")
    add(
        "--quantize",
        choices=(NO_QUANTIZATION, *SCHEMES),
        default=NO_QUANTIZATION,
        help="bits of the linear layers' weights",
    )
    add("--lora", type=Path, help="a file with LoRA updates to merge into SRC")
    add("--lora-alpha", type=float, help="lora_alpha of their training (official: 16)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    try:
        facts = convert(parse_arguments(arguments))
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if facts["codec"] == "codec.safetensors" and facts["model"] == "model.pth":
        print("The codec has other sizes than S1-mini's and stays in codec.safetensors.")
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
