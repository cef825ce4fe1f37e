"""Model directories: find their files, name their content, load the dual-AR network.

A directory is the official download, our own safetensors form of it, or the pocket voice; the names
inside decide, and everything else comes from ``config.json``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from backend.core.errors import CheckpointError, CheckpointMismatchError
from backend.models.adapters import lora_alpha, merge_lora, official_names
from backend.models.config import CONFIG_FILE, DualARConfig
from backend.models.dual_ar import DualAR, head_rows
from backend.models.host_tables import leave_on_host
from backend.models.quantization import (
    SCHEMES,
    linear_names,
    quantize_tensors,
    replace_linears,
    require_same_scheme,
)
from backend.models.tensor_files import (
    NO_QUANTIZATION,
    QUANTIZATION_KEY,
    assign_strict,
    read_tensor_file,
)
from backend.models.tokenizer import RANKS_FILE, SPECIAL_TOKENS_FILE, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

MODEL_FILES = ("model.safetensors", "model.pth")
CODEC_FILES = ("codec.safetensors", "codec.pth")

HEAD = "output.weight"

_FILE_NAMES = {
    "config": (CONFIG_FILE,),
    "tokenizer": (RANKS_FILE,),
    "special_tokens": (SPECIAL_TOKENS_FILE,),
    "model": MODEL_FILES,
    "codec": CODEC_FILES,
}
_SLICE_BYTES = 1 << 20
_NUM_INNER_SLICES = 16
_REVISION_DIGITS = 16


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """The files of one model directory; all of them exist."""

    config: Path
    tokenizer: Path
    special_tokens: Path
    model: Path
    codec: Path


def describe_checkpoint(directory: Path) -> CheckpointFiles:
    """Find the files of a model directory. Of two weight files, the safetensors one is taken.

    Raises:
        CheckpointError: The directory or a file is missing; the message lists what is expected and
            how to get it.
    """
    return CheckpointFiles(**_find(directory, _FILE_NAMES))


def revision(directory: Path) -> str:
    """Name the content of a model directory, for cache keys.

    Reads the small files whole and about 18 MiB of each weight file: its size, both ends (where
    both containers keep their index) and slices in between.

    Returns:
        16 hexadecimal digits that change when a weight or the configuration changes.

    Raises:
        CheckpointError: A file is missing.
    """
    files = describe_checkpoint(directory)
    digest = hashlib.sha256()
    for path in (files.config, files.tokenizer, files.special_tokens):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    for path in (files.model, files.codec):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        for part in _slices(path):
            digest.update(part)
    return digest.hexdigest()[:_REVISION_DIGITS]


def load_dual_ar(
    directory: Path,
    device: torch.device | str,
    dtype: torch.dtype,
    residual_size: int | None = None,
    quantization: str = NO_QUANTIZATION,
    *,
    is_lean: bool = False,
    host_tables: Collection[str] = (),
    tokenizer: Tokenizer | None = None,
) -> DualAR:
    """Load the slow and fast transformers, ready to use.

    The network is laid out on the meta device and then given the file's tensors one by one, so
    nothing is initialized at random and the peak is the weights themselves.

    Args:
        directory: A model directory.
        device: Where the weights go.
        dtype: float32, bfloat16 or float16. The rotary tables stay float32 for each.
        residual_size: See ``DualAR``.
        quantization: ``none``, ``int8`` or ``nf4``. Plain weights are quantized one by one while
            they are loaded; a file that was saved quantized is taken as it is.
        is_lean: Leave out the rows of the head that speech never asks for.
        host_tables: Names of tensors that stay in the host, see ``host_tables``; none of them on a
            CPU, where everything does.
        tokenizer: The directory's own, if it was read before.

    Returns:
        The network in evaluation mode, with the tokenizer's ids bound.

    Raises:
        CheckpointError: A file is missing or unreadable.
        CheckpointMismatchError: Weights, configuration and tokenizer do not belong together.
        SettingsError: The file was saved with another quantization.
    """
    found = _find(directory, [role for role in _FILE_NAMES if role != "codec"])
    config = DualARConfig.from_file(found["config"])
    tokenizer = tokenizer or Tokenizer.from_directory(directory)
    _check_tokenizer(tokenizer, config, directory)
    file, what = read_tensor_file(found["model"], tuple(SCHEMES)), str(found["model"])
    stored_as = str(file.metadata.get(QUANTIZATION_KEY, NO_QUANTIZATION))
    require_same_scheme(stored_as, quantization, what)
    tensors = merge_lora(official_names(file.tensors), lora_alpha(file.metadata))
    kept: frozenset[str] = frozenset()
    ids = (tokenizer.semantic_begin_id, tokenizer.num_semantic, tokenizer.im_end_id)
    with torch.device("meta"):
        model = DualAR(config, residual_size)
        if is_lean and HEAD in tensors and tensors[HEAD].shape == (config.vocab_size, config.dim):
            tensors = {**tensors, HEAD: head_rows(tensors[HEAD], *ids)}
            model.cut_head(*ids)
        names = linear_names(model)
        if quantization != NO_QUANTIZATION:
            kept = replace_linears(model, quantization)
    if quantization == stored_as:
        # views of the mapped file; the network needs its own memory
        tensors |= {name: tensors[name].to(device, copy=True) for name in kept if name in tensors}
    else:
        tensors = quantize_tensors(tensors, names, quantization, device)
    mapped = host_tables if torch.device(device).type == "cuda" else ()
    tensors = leave_on_host(tensors, mapped, dtype, torch.device(device))
    assign_strict(model, tensors, dtype, device, what, kept, mapped)
    model.rebuild_rope(torch.device(device))
    model.bind_tokens(*ids)
    return model.eval()


def _find(directory: Path, roles: Iterable[str]) -> dict[str, Path]:
    """Find the file of each role, or say which are missing and how to get them."""
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory. {_how_to_get()}")
    found: dict[str, Path] = {}
    missing: list[str] = []
    for role in roles:
        present = [directory / name for name in _FILE_NAMES[role] if (directory / name).is_file()]
        if present:
            found[role] = present[0]
        else:
            missing.append(" or ".join(_FILE_NAMES[role]))
    if missing:
        raise CheckpointError(f"{directory}: missing {', '.join(missing)}. {_how_to_get()}")
    return found


def _check_tokenizer(tokenizer: Tokenizer, config: DualARConfig, directory: Path) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointMismatchError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} ids, config.json room for "
            f"{config.vocab_size}; the files are of different models"
        )
    if tokenizer.num_semantic > config.codebook_size:
        raise CheckpointMismatchError(
            f"{directory}: {SPECIAL_TOKENS_FILE} has {tokenizer.num_semantic} semantic tokens, "
            f"config.json a codebook of {config.codebook_size}; the files are of different models"
        )


def _slices(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    last = max(0, size - _SLICE_BYTES)
    with path.open("rb") as file:
        for index in range(_NUM_INNER_SLICES + 2):
            file.seek(last * index // (_NUM_INNER_SLICES + 1))
            yield file.read(_SLICE_BYTES)


def _how_to_get() -> str:
    return (
        f"A model directory holds {CONFIG_FILE}, {RANKS_FILE}, {SPECIAL_TOKENS_FILE}, "
        f"{' or '.join(MODEL_FILES)}, and {' or '.join(CODEC_FILES)}. Fetch the official one with "
        "python scripts/download_model.py, or use the built-in voice: MODEL=pocket"
    )
