"""Sizes of the dual-AR network, read from a checkpoint's ``config.json``.

The field names are those of the official file, so a directory can be used as it was downloaded.
Keys this project has no use for (dropout, initialization, training switches) are ignored.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from backend.core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG_FILE = "config.json"
MODEL_TYPE = "dual_ar"


@dataclass(frozen=True, slots=True)
class BlockConfig:
    """Sizes of one stack of transformer blocks (the slow or the fast one)."""

    n_layer: int
    dim: int
    n_head: int
    n_local_heads: int
    head_dim: int
    intermediate_size: int
    norm_eps: float
    qkv_bias: bool
    o_bias: bool
    qk_norm: bool


@dataclass(frozen=True, slots=True)
class DualARConfig:
    """Sizes and switches of a dual-AR checkpoint, under their official names.

    ``n_local_heads`` counts key/value heads. ``num_codebooks`` counts the semantic codebook and the
    residual ones together. Every ``fast_*`` size falls back to its slow counterpart.
    """

    dim: int
    n_layer: int
    n_head: int
    vocab_size: int
    intermediate_size: int
    codebook_size: int
    num_codebooks: int
    n_local_heads: int
    head_dim: int
    n_fast_layer: int
    fast_dim: int
    fast_n_head: int
    fast_n_local_heads: int
    fast_head_dim: int
    fast_intermediate_size: int
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    max_seq_len: int = 2048
    tie_word_embeddings: bool = True
    attention_qkv_bias: bool = False
    attention_o_bias: bool = False
    attention_qk_norm: bool = False
    fast_attention_qkv_bias: bool = False
    fast_attention_o_bias: bool = False
    fast_attention_qk_norm: bool = False
    scale_codebook_embeddings: bool = False
    norm_fastlayer_input: bool = False

    @property
    def slow_block(self) -> BlockConfig:
        """Sizes of the transformer over time."""
        return BlockConfig(
            n_layer=self.n_layer,
            dim=self.dim,
            n_head=self.n_head,
            n_local_heads=self.n_local_heads,
            head_dim=self.head_dim,
            intermediate_size=self.intermediate_size,
            norm_eps=self.norm_eps,
            qkv_bias=self.attention_qkv_bias,
            o_bias=self.attention_o_bias,
            qk_norm=self.attention_qk_norm,
        )

    @property
    def fast_block(self) -> BlockConfig:
        """Sizes of the transformer over codebooks."""
        return BlockConfig(
            n_layer=self.n_fast_layer,
            dim=self.fast_dim,
            n_head=self.fast_n_head,
            n_local_heads=self.fast_n_local_heads,
            head_dim=self.fast_head_dim,
            intermediate_size=self.fast_intermediate_size,
            norm_eps=self.norm_eps,
            qkv_bias=self.fast_attention_qkv_bias,
            o_bias=self.fast_attention_o_bias,
            qk_norm=self.fast_attention_qk_norm,
        )

    @classmethod
    def from_dict(cls, mapping: Mapping[str, object]) -> DualARConfig:
        """Read the official keys out of ``mapping``.

        Args:
            mapping: Parsed ``config.json``. Unknown keys are ignored, as the official loader's
                training switches are.

        Raises:
            CheckpointError: A required key is missing, a value has the wrong type or range, or
                the model type is not ``dual_ar``; the message names the key.
        """
        model_type = mapping.get("model_type", MODEL_TYPE)
        if model_type != MODEL_TYPE:
            raise CheckpointError(
                f"config.json: model_type is {model_type!r}; only {MODEL_TYPE!r} checkpoints "
                "(OpenAudio S1-mini and the pocket voice) can be loaded"
            )
        values = _completed(mapping)
        config = cls(**{field.name: _checked(values, field.name) for field in fields(cls)})
        _check_heads("", config.slow_block)
        _check_heads("fast_", config.fast_block)
        return config

    @classmethod
    def from_file(cls, path: Path) -> DualARConfig:
        """Read ``config.json`` at ``path``.

        Raises:
            CheckpointError: The file is missing, is not a JSON object, or holds bad values.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise CheckpointError(f"{path}: not a JSON file ({error})") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: must hold a JSON object")
        try:
            return cls.from_dict(content)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error


_FLOATS = frozenset({"rope_base", "norm_eps"})
_SWITCHES = frozenset(
    field.name for field in fields(DualARConfig) if isinstance(field.default, bool)
)
_REQUIRED = (
    "dim",
    "n_layer",
    "n_head",
    "vocab_size",
    "intermediate_size",
    "codebook_size",
    "num_codebooks",
)
_OFFICIAL_FAST_LAYERS = 4
_AS_MANY_AS_HEADS = -1  # how the official file spells "one key/value head per query head"


def _completed(mapping: Mapping[str, object]) -> dict[str, object]:
    """Add the official defaults of whatever ``mapping`` leaves out or sets to null."""
    values = {key: value for key, value in mapping.items() if value is not None}
    missing = [key for key in _REQUIRED if key not in values]
    if missing:
        raise CheckpointError(f"config.json: missing {', '.join(missing)}")
    for field in fields(DualARConfig):
        if field.default is not MISSING and not field.name.startswith("fast_"):
            values.setdefault(field.name, field.default)
    if values.get("n_local_heads", _AS_MANY_AS_HEADS) == _AS_MANY_AS_HEADS:
        values["n_local_heads"] = values["n_head"]
    values.setdefault("head_dim", _checked(values, "dim") // _checked(values, "n_head"))
    values.setdefault("n_fast_layer", _OFFICIAL_FAST_LAYERS)
    for field in fields(DualARConfig):
        if field.name.startswith("fast_"):
            values.setdefault(field.name, values[field.name.removeprefix("fast_")])
    return values


def _checked(values: Mapping[str, object], key: str) -> Any:
    """``values[key]`` once its type and range are known to be right for the field ``key``."""
    value = values[key]
    if key in _SWITCHES:
        if not isinstance(value, bool):
            raise CheckpointError(f"config.json: {key} must be true or false, got {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"config.json: {key} must be a number, got {value!r}")
    if not math.isfinite(value) or value <= 0:
        raise CheckpointError(f"config.json: {key} must be above 0, got {value!r}")
    if key in _FLOATS:
        return float(value)
    if not isinstance(value, int):
        raise CheckpointError(f"config.json: {key} must be a whole number, got {value!r}")
    return value


def _check_heads(prefix: str, block: BlockConfig) -> None:
    if block.n_head % block.n_local_heads:
        raise CheckpointError(
            f"config.json: {prefix}n_head ({block.n_head}) must be a multiple of "
            f"{prefix}n_local_heads ({block.n_local_heads})"
        )
    if block.head_dim % 2:
        raise CheckpointError(
            f"config.json: {prefix}head_dim must be even for rotary positions, got {block.head_dim}"
        )
