"""Codec checkpoints: the official ``codec.pth`` and our own ``codec.safetensors``.

Both use the official names. What differs from the modules here is settled while reading: wrappers
and prefixes of training checkpoints are removed, weight norm (two spellings) is folded into plain
weights, and tables that can be computed (RoPE factors, masks: 0.3 GB of the official file) are
skipped without being read from the disk.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from backend.core.errors import CheckpointError, CheckpointMismatchError
from backend.models.checkpoint import CODEC_FILES
from backend.models.codec.codec import Codec, CodecParts
from backend.models.codec.config import S1_MINI, CodecConfig
from backend.models.codec.rounding import float32_names
from backend.models.tensor_files import (
    assign_strict,
    check_fit,
    read_tensor_file,
    write_safetensors,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

CONFIG_KEY = "config"
"""Entry of the safetensors metadata that holds the configuration as JSON."""

_PARAMETRIZED = (
    ".parametrizations.weight.original0",
    ".parametrizations.weight.original1",
)
_CLASSIC = (".weight_g", ".weight_v")
"""The two spellings of weight norm: magnitude, direction."""
_COMPUTED_SUFFIXES = (".freqs_cis", ".causal_mask")
_PREFIXES_SKIPPED: dict[CodecParts, tuple[str, ...]] = {
    "all": (),
    "decode": ("encoder.", "quantizer.downsample.", "quantizer.pre_module."),
    "encode": ("decoder.", "quantizer.upsample.", "quantizer.post_module."),
}
_GENERATOR_PREFIX = "generator."


def load_codec(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    parts: CodecParts = "all",
) -> Codec:
    """Build the codec that a checkpoint describes.

    Args:
        path: A codec file, or a model directory with ``codec.safetensors`` or ``codec.pth``.
        device: Where the codec shall run.
        dtype: What convolutions and transformers shall run in. The snakes' ``alpha``, the
            codebooks and the last convolution stay float32: they are small and hurt when rounded.
        parts: ``"decode"`` leaves out, and does not read, what only ``encode_reference`` needs;
            ``"encode"`` the other way round.

    Returns:
        The codec in evaluation mode, without gradients.

    Raises:
        CheckpointError: There is no codec file, it cannot be read, or its configuration is bad.
        CheckpointMismatchError: Tensors are missing, extra or of another shape; they are named.
    """
    file = find_codec_file(Path(path))
    config, tensors = read_codec(file, parts)
    with torch.device("meta"):  # no memory and no random numbers for weights that come next
        codec = Codec(config, parts)
    assign_strict(codec, tensors, dtype, device, str(file))
    for name in float32_names(codec):
        codec.get_parameter(name).data = tensors[name].to(device, torch.float32, copy=True)
    return codec.eval()


def check_codec(path: str | Path, parts: CodecParts) -> int:
    """Compare a checkpoint's names and shapes with the codec it describes, reading no weights.

    Args:
        path: As in ``load_codec``.
        parts: What is compared.

    Returns:
        Bytes that these parts take in float32.

    Raises:
        CheckpointError: As ``load_codec``.
        CheckpointMismatchError: As ``load_codec``.
    """
    file = find_codec_file(Path(path))
    config, tensors = read_codec(file, parts, values=False)
    with torch.device("meta"):
        codec = Codec(config, parts)
    check_fit(codec, tensors, str(file))
    return sum(parameter.numel() * 4 for parameter in codec.parameters())


def find_codec_file(path: Path) -> Path:
    """Give ``path`` itself if it is a file, else the codec file in that directory.

    Raises:
        CheckpointError: There is none.
    """
    if path.is_file():
        return path
    for name in CODEC_FILES:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(
        f"{path}: no codec; expected {' or '.join(CODEC_FILES)}. Fetch the official one with "
        "python scripts/download_model.py, or use the built-in voice: MODEL=pocket"
    )


def read_codec(
    file: Path, parts: CodecParts = "all", *, values: bool = True
) -> tuple[CodecConfig, dict[str, Tensor]]:
    """Read a checkpoint without building anything.

    Args:
        file: ``.safetensors`` (ours; the metadata holds the configuration), else a torch pickle
            (official; the sizes are those of S1-mini).
        parts: As in ``load_codec``.
        values: False gives tensors without values (on the meta device) and reads none.

    Returns:
        The configuration, and the tensors on the CPU by their names in ``Codec``: weight norm
        folded (float32 there, else as stored), nothing that can be computed.

    Raises:
        CheckpointError: The file cannot be read or its configuration is bad.
        CheckpointMismatchError: Half of a weight norm is missing or misshaped.
    """
    opened = read_tensor_file(file)
    config = S1_MINI
    if file.suffix == ".safetensors":
        config = _stored_config(file, opened.metadata.get(CONFIG_KEY))
    stored = _without_prefix(opened.tensors)
    skipped = _PREFIXES_SKIPPED[parts]
    wanted = {
        name: tensor if values else tensor.to("meta")
        for name, tensor in stored.items()
        if not name.endswith(_COMPUTED_SUFFIXES) and not name.startswith(skipped)
    }
    return config, fold_weight_norm(wanted)


def read_codec_config(file: Path) -> CodecConfig:
    """Sizes of the codec in ``file``; reads no weights. Errors as in ``read_codec``."""
    if file.suffix != ".safetensors":
        return S1_MINI
    return _stored_config(file, read_tensor_file(file).metadata.get(CONFIG_KEY))


def save_codec(
    file: Path,
    config: CodecConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
) -> None:
    """Write our own form: official names, weight norm folded, the configuration in the metadata.

    Args:
        file: Where to; ends with ``.safetensors``.
        config: What the tensors belong to.
        tensors: As ``read_codec`` or ``Codec.state_dict`` gives them.
        dtype: Stored precision, or None to keep each tensor's own.
    """
    stored = {k: v.detach().to("cpu", dtype or v.dtype) for k, v in tensors.items()}
    write_safetensors(stored, file, {CONFIG_KEY: json.dumps(config.to_dict())})


def fold_weight_norm(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace each pair of magnitude ``g`` and direction ``v`` by the weight ``g * v / |v|``.

    The length of ``v`` is taken over all dimensions but the first, which is the output channel of
    a convolution and the input channel of a transposed one. Other tensors pass unchanged.

    Raises:
        CheckpointMismatchError: One of a pair is missing, or their shapes do not belong together.
    """
    folded = dict(stored)
    for magnitude_suffix, direction_suffix in (_PARAMETRIZED, _CLASSIC):
        for name in [n for n in stored if n.endswith((magnitude_suffix, direction_suffix))]:
            base = name.removesuffix(magnitude_suffix).removesuffix(direction_suffix)
            if base + ".weight" in folded:
                continue
            magnitude = folded.pop(base + magnitude_suffix, None)
            direction = folded.pop(base + direction_suffix, None)
            if magnitude is None or direction is None:
                raise CheckpointMismatchError(f"{base}: half of its weight norm is missing")
            folded[base + ".weight"] = _folded(base, magnitude.float(), direction.float())
    return folded


def _folded(base: str, magnitude: Tensor, direction: Tensor) -> Tensor:
    if magnitude.numel() != direction.shape[0]:
        raise CheckpointMismatchError(
            f"{base}: weight norm of {tuple(magnitude.shape)} does not fit {tuple(direction.shape)}"
        )
    if direction.is_meta:  # no values; a norm of none would import the compiler
        return direction
    lengths = torch.linalg.vector_norm(direction.flatten(1), dim=1)
    factors = magnitude.flatten() / lengths
    return direction * factors.view(-1, *[1] * (direction.ndim - 1))


def unfold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``fold_weight_norm``: give the names of the official file."""
    official: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        base = name.removesuffix(".weight")
        if name.endswith((".in_proj.weight", ".out_proj.weight")) and tensor.ndim == 3:
            suffixes = _CLASSIC
        elif name.startswith(("encoder.", "decoder.")) and name.endswith(".conv.weight"):
            suffixes = _PARAMETRIZED
        else:
            official[name] = tensor
            continue
        lengths = torch.linalg.vector_norm(tensor.float().flatten(1), dim=1)
        official[base + suffixes[0]] = lengths.view(-1, 1, 1).to(tensor.dtype)
        official[base + suffixes[1]] = tensor
    return official


def _stored_config(file: Path, text: str | None) -> CodecConfig:
    if text is None:
        raise CheckpointError(
            f"{file}: no {CONFIG_KEY!r} in its metadata, so the codec's sizes are unknown; make it "
            "from the official codec.pth with python scripts/convert_checkpoint.py"
        )
    try:
        values: Any = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{file}: {CONFIG_KEY!r} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: {CONFIG_KEY!r} is not a JSON object")
    return CodecConfig.from_dict(values)


def _without_prefix(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Keep the codec of a training checkpoint, where discriminators lie beside it."""
    if not any(name.startswith(_GENERATOR_PREFIX) for name in tensors):
        return tensors
    return {
        name.removeprefix(_GENERATOR_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(_GENERATOR_PREFIX)
    }
