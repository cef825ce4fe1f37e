"""From the tensor names found in dual-AR checkpoints to the names of ``DualAR``.

Official files, training checkpoints and unfused or LoRA-tuned ones differ in names; what comes out
of here fits ``DualAR`` as it is. Nothing is guessed: what is not known stays under its own name,
and strict loading reports it.

Source: the loading rules of fish-speech 0.1.0 (Apache-2.0), ``models/text2semantic/llama.py``, and
the naming of loralib; the code is our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from backend.core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_TRAINING_PREFIX = "model."
_AUDIO_INPUT = "audio_"  # weights of an input S1 was not released with
_LORA_A = ".lora_A"
_LORA_B = ".lora_B"
_ALPHA_KEY = "lora_alpha"


def official_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo what training and older releases did to the names.

    Takes ``model.`` off where the first key carries it, leaves out ``audio_*`` tensors, and joins
    separate ``wq``, ``wk``, ``wv`` into ``wqkv``.
    """
    first = next(iter(tensors), "")
    if first.startswith(_TRAINING_PREFIX):
        tensors = {name.replace(_TRAINING_PREFIX, ""): value for name, value in tensors.items()}
    named = {name: value for name, value in tensors.items() if _AUDIO_INPUT not in name}
    for name in [name for name in named if name.endswith(".wq.weight")]:
        stem = name.removesuffix("q.weight")
        parts = [named.pop(f"{stem}{part}.weight", None) for part in "qkv"]
        present = [part for part in parts if part is not None]
        if len(present) != len(parts):
            raise CheckpointError(f"{name} stands without its wk and wv; the file is incomplete")
        named[f"{stem}qkv.weight"] = torch.cat(present)
    return named


def merge_lora(tensors: Mapping[str, Tensor], alpha: float | None) -> dict[str, Tensor]:
    """Add low-rank updates to the weights they belong to: ``W + alpha / r * B @ A``.

    Args:
        tensors: Weights, some with ``.lora_A`` and ``.lora_B`` beside ``.weight``.
        alpha: The ``lora_alpha`` of the training; not needed where there are no updates.

    Returns:
        Plain weights in their own dtype; computed in float32.

    Raises:
        CheckpointError: ``alpha`` is unknown, or an update lacks its other half or its weight.
    """
    stems = [name.removesuffix(_LORA_A) for name in tensors if name.endswith(_LORA_A)]
    orphans = [
        name
        for name in tensors
        if name.endswith(_LORA_B) and name.removesuffix(_LORA_B) not in stems
    ]
    if orphans:
        raise CheckpointError(f"{orphans[0]} stands without its lora_A; the file is incomplete")
    if stems and alpha is None:
        raise CheckpointError(
            "the checkpoint holds LoRA updates but not their scale: merge them once with "
            "scripts/convert_checkpoint.py --lora-alpha N, where N is lora_alpha of the training "
            "configuration (16 in the official r_8_alpha_16)"
        )
    merged = {n: value for n, value in tensors.items() if not n.endswith((_LORA_A, _LORA_B))}
    for stem in stems:
        merged[f"{stem}.weight"] = _updated(tensors, stem, float(alpha or 0.0))
    return merged


def lora_alpha(metadata: Mapping[str, Any]) -> float | None:
    """Find the scale of LoRA updates in a file's metadata; None if it is not recorded.

    Looked for under ``lora_alpha``, at the top or inside ``lora_config`` or ``hyper_parameters``.
    """
    places = [metadata, metadata.get("lora_config"), metadata.get("hyper_parameters")]
    for place in places:
        if not isinstance(place, dict) or _ALPHA_KEY not in place:
            continue
        try:
            return float(place[_ALPHA_KEY])
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{_ALPHA_KEY} in the checkpoint must be a number, got {place[_ALPHA_KEY]!r}"
            ) from error
    return None


def _updated(tensors: Mapping[str, Tensor], stem: str, alpha: float) -> Tensor:
    weight = tensors.get(f"{stem}.weight")
    down, up = tensors[stem + _LORA_A], tensors.get(stem + _LORA_B)
    if weight is None or up is None:
        absent = f"{stem}.weight" if weight is None else stem + _LORA_B
        raise CheckpointError(
            f"{absent} is missing beside {stem}{_LORA_A}. A file with updates alone is merged "
            "with scripts/convert_checkpoint.py BASE DST --lora FILE --lora-alpha N"
        )
    update = up.float() @ down.float()
    if stem.endswith("embeddings"):  # loralib keeps an embedding's update turned
        update = update.T
    if update.shape != weight.shape:
        raise CheckpointError(
            f"{stem}: the LoRA update has the shape {tuple(update.shape)}, "
            f"its weight {tuple(weight.shape)}"
        )
    return (weight.float() + alpha / down.shape[0] * update).to(weight.dtype)
