"""The sizes of a codec, read from a checkpoint and checked once.

Nothing else in this package holds a number that a checkpoint could change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from backend.core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRAINING_ONLY = frozenset({"quantizer_dropout", "block_size"})
"""Keys that checkpoints carry and inference has no use for. ``block_size`` sized RoPE tables that
are computed here for any length."""

_REAL_FIELDS = frozenset({"rope_base", "norm_eps"})
_LIST_FIELDS = frozenset(
    {"encoder_rates", "encoder_transformer_layers", "decoder_rates", "downsample_factor"}
)
_OPTIONAL = frozenset({"encoder_transformer_layers", "encoder_window_size", "encoder_head_dim"})


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Sizes of one window-limited transformer.

    Attributes:
        n_layer: Blocks.
        dim: Width between blocks.
        n_head: Attention heads; queries, keys and values have the same number.
        head_dim: Width of a head; even, because RoPE turns pairs.
        intermediate_size: Width inside the gated feed-forward.
        window_size: Positions that a query sees, itself included.
        rope_base: Base of the RoPE frequencies.
        norm_eps: Added to the mean square in RMSNorm.
    """

    n_layer: int
    dim: int
    n_head: int
    head_dim: int
    intermediate_size: int
    window_size: int
    rope_base: float
    norm_eps: float


@dataclass(frozen=True, slots=True)
class CodecConfig:
    """Sizes of the whole codec; the defaults are those of S1-mini (and of S2-Pro).

    Attributes:
        sample_rate: Hz.
        encoder_dim: Channels after the first encoder convolution; each block doubles them.
        encoder_rates: Stride of each encoder block.
        encoder_transformer_layers: Transformer layers at the end of each encoder block, 0 for none.
        latent_dim: Channels between encoder, quantizer and decoder.
        decoder_dim: Channels after the first decoder convolution; each block halves them.
        decoder_rates: Upsampling of each decoder block.
        n_codebooks: Residual codebooks, the semantic one not counted.
        codebook_size: Entries of a residual codebook.
        semantic_codebook_size: Entries of the semantic codebook.
        codebook_dim: Width of a codebook entry.
        downsample_factor: Strides between the encoder and the codes.
        n_layer: Layers of the transformer before and of the one after the codes.
        dim: Width of these two transformers.
        n_head: Their attention heads.
        head_dim: Width of a head.
        intermediate_size: Their feed-forward width.
        window_size: Frames that a query sees in them, itself included.
        rope_base: Base of the RoPE frequencies in every transformer of the codec.
        norm_eps: RMSNorm epsilon in every transformer of the codec.
        encoder_window_size: As ``window_size``, for transformers inside encoder blocks.
        encoder_head_dim: Head width there; the number of heads is block width / head width.
    """

    sample_rate: int = 44_100
    encoder_dim: int = 64
    encoder_rates: tuple[int, ...] = (2, 4, 8, 8)
    encoder_transformer_layers: tuple[int, ...] = (0, 0, 0, 4)
    latent_dim: int = 1024
    decoder_dim: int = 1536
    decoder_rates: tuple[int, ...] = (8, 8, 4, 2)
    n_codebooks: int = 9
    codebook_size: int = 1024
    semantic_codebook_size: int = 4096
    codebook_dim: int = 8
    downsample_factor: tuple[int, ...] = (2, 2)
    n_layer: int = 8
    dim: int = 1024
    n_head: int = 16
    head_dim: int = 64
    intermediate_size: int = 3072
    window_size: int = 128
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    encoder_window_size: int = 512
    encoder_head_dim: int = 64

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            CheckpointError: A value cannot belong to a codec of this family; the message names it.
        """
        for field in fields(self):
            _check_field(field.name, getattr(self, field.name))
        _require(self.head_dim % 2 == 0, "head_dim must be even (RoPE turns pairs)", self.head_dim)
        _require(
            len(self.encoder_transformer_layers) == len(self.encoder_rates),
            f"encoder_transformer_layers must have one entry per encoder block "
            f"({len(self.encoder_rates)})",
            self.encoder_transformer_layers,
        )
        _require(
            math.prod(self.encoder_rates) == math.prod(self.decoder_rates),
            f"decoder_rates must multiply to the hop of the encoder ({self.hop_length})",
            self.decoder_rates,
        )
        _require(
            self.decoder_dim % 2 ** len(self.decoder_rates) == 0,
            f"decoder_dim must be divisible by {2 ** len(self.decoder_rates)} "
            "(each decoder block halves it)",
            self.decoder_dim,
        )
        for idx, layers in enumerate(self.encoder_transformer_layers):
            width = self.encoder_dim * 2 ** (idx + 1)
            _require(
                layers == 0 or (width % self.encoder_head_dim == 0),
                f"encoder block {idx + 1} is {width} wide, which encoder_head_dim must divide",
                self.encoder_head_dim,
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the configuration that a checkpoint carries.

        Args:
            values: The fields of this class by name, as JSON gives them.
                ``encoder_transformer_layers`` may be absent and then means none;
                ``encoder_window_size`` and ``encoder_head_dim`` may be absent. Keys that matter
                in training alone are skipped.

        Raises:
            CheckpointError: A key is missing or unknown, or a value is impossible.
        """
        known = {field.name for field in fields(cls)}
        given: dict[str, Any] = {k: v for k, v in values.items() if k not in _TRAINING_ONLY}
        unknown = sorted(given.keys() - known)
        missing = sorted(known - _OPTIONAL - given.keys())
        if unknown or missing:
            raise CheckpointError(
                f"the codec configuration has unknown keys {unknown} and lacks {missing}; "
                "it was written by another version of the project: convert the checkpoint again"
            )
        rates = given["encoder_rates"]
        if isinstance(rates, list | tuple):
            given.setdefault("encoder_transformer_layers", [0] * len(rates))
        frozen: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in given.items()
        }
        return cls(**frozen)

    def to_dict(self) -> dict[str, Any]:
        """Give the form that ``from_dict`` reads, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @property
    def num_codebooks(self) -> int:
        """Codes per frame: one semantic and ``n_codebooks`` residual ones."""
        return 1 + self.n_codebooks

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook, in the order of the rows of ``codes``."""
        return (self.semantic_codebook_size, *[self.codebook_size] * self.n_codebooks)

    @property
    def hop_length(self) -> int:
        """Samples per encoder step (512 in S1-mini). Not a frame."""
        return math.prod(self.encoder_rates)

    @property
    def frame_length(self) -> int:
        """Samples per frame (2048 in S1-mini)."""
        return self.hop_length * math.prod(self.downsample_factor)

    @property
    def frame_rate(self) -> float:
        """Frames per second (21.53 in S1-mini)."""
        return self.sample_rate / self.frame_length

    @property
    def transformer(self) -> TransformerConfig:
        """Sizes of the transformers on either side of the codes."""
        return TransformerConfig(
            n_layer=self.n_layer,
            dim=self.dim,
            n_head=self.n_head,
            head_dim=self.head_dim,
            intermediate_size=self.intermediate_size,
            window_size=self.window_size,
            rope_base=self.rope_base,
            norm_eps=self.norm_eps,
        )

    def encoder_transformer(self, block_idx: int) -> TransformerConfig | None:
        """Sizes of the transformer that ends encoder block ``block_idx``, if it has one."""
        layers = self.encoder_transformer_layers[block_idx]
        if layers == 0:
            return None
        width = self.encoder_dim * 2 ** (block_idx + 1)
        return TransformerConfig(
            n_layer=layers,
            dim=width,
            n_head=width // self.encoder_head_dim,
            head_dim=self.encoder_head_dim,
            intermediate_size=3 * width,
            window_size=self.encoder_window_size,
            rope_base=self.rope_base,
            norm_eps=self.norm_eps,
        )


def _require(condition: bool, rule: str, value: object) -> None:
    if not condition:
        raise CheckpointError(f"codec configuration: {rule}, got {value!r}")


def _check_field(name: str, value: Any) -> None:
    if name in _REAL_FIELDS:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        rule = f"{name} must be a positive number"
        _require(is_number and math.isfinite(value) and value > 0, rule, value)
        return
    entries: Any = (value,)
    if name in _LIST_FIELDS:
        rule = f"{name} must be a list of whole numbers"
        _require(isinstance(value, tuple) and len(value) > 0, rule, value)
        entries = value
    floor = 0 if name == "encoder_transformer_layers" else 1
    for entry in entries:
        is_count = isinstance(entry, int) and not isinstance(entry, bool) and entry >= floor
        _require(is_count, f"{name} must hold whole numbers of at least {floor}", value)


S1_MINI = CodecConfig()
"""The codec of openaudio-s1-mini; ``codec.pth`` carries no configuration of its own."""
