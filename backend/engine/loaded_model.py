"""The networks of one model directory, loaded together and checked against each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.core.errors import CheckpointMismatchError
from backend.engine.model_files import read_sampling_defaults
from backend.models.checkpoint import load_dual_ar, revision
from backend.models.host_tables import HOST_TABLES
from backend.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from backend.core.types import SamplingParams
    from backend.engine.codec_setup import CodecSetup
    from backend.engine.encode_reference import ReferenceEncoder
    from backend.engine.precision import Precision
    from backend.models.codec.codec import Codec
    from backend.models.dual_ar import DualAR


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The networks of one model directory, on one device.

    Attributes:
        name: The setting that chose it.
        revision: Changes with the files.
        tokenizer: Text to token ids.
        dual_ar: Text and codes to codes.
        codec: Codes to samples.
        encoder: Samples to codes.
        sampling: The checkpoint's defaults.
        memory_plan: Bytes by part, if they were planned.
    """

    name: str
    revision: str
    tokenizer: Tokenizer
    dual_ar: DualAR
    codec: Codec
    encoder: ReferenceEncoder
    sampling: SamplingParams
    memory_plan: Mapping[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def load(
        cls,
        name: str,
        directory: Path,
        precision: Precision,
        codec_setup: CodecSetup,
        memory_plan: Mapping[str, int] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> LoadedModel:
        """Load a model directory of either form; ``tokenizer`` is its own, if it was read before.

        Raises:
            CheckpointError: Files are missing or do not fit; the message names them.
        """
        tokenizer = tokenizer or Tokenizer.from_directory(directory)
        dual_ar = load_dual_ar(
            directory, precision.device, precision.dtype, quantization=precision.quantization,
            is_lean=True, host_tables=HOST_TABLES[precision.host_embeddings], tokenizer=tokenizer,
        )  # fmt: skip
        codec = codec_setup.load_decoder(directory)
        _check_fit(directory, tokenizer, dual_ar, codec)
        encoder = codec_setup.reference_encoder(directory)
        sampling = read_sampling_defaults(directory)
        return cls(
            name, revision(directory), tokenizer, dual_ar, codec, encoder, sampling,
            memory_plan or {},
        )  # fmt: skip


def _check_fit(directory: Path, tokenizer: Tokenizer, dual_ar: DualAR, codec: Codec) -> None:
    """Refuse networks that were not made for each other."""
    spoken = (dual_ar.config.num_codebooks, tokenizer.num_semantic)
    heard = (codec.num_codebooks, codec.codebook_sizes[0])
    if spoken != heard:
        raise CheckpointMismatchError(
            f"{directory}: the model speaks {spoken[0]} codebooks with {spoken[1]} semantic codes, "
            f"the codec has {heard[0]} with {heard[1]}; take both from the same checkpoint"
        )
