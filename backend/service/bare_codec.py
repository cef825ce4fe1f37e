"""The codec without the model: codes in, sound out."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import numpy as np

from backend.core.errors import InvalidInputError
from backend.core.types import AudioChunk, SynthesisRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backend.core.contract import EngineClient
    from backend.core.types import EngineInfo


async def decode_codes(
    engine: EngineClient, codes: NDArray[np.int32], info: EngineInfo, request_id: str
) -> NDArray[np.float32]:
    """Turn codes ``[K, F]`` into ``[F * frame_length]`` samples at ``info.sample_rate``.

    Raises:
        InvalidInputError: The codes do not fit the codec, or are more than a sequence can have.
    """
    _check(codes, info)
    request = SynthesisRequest(request_id=request_id, text="", codes=codes, stream=False)
    results = engine.synthesize(request)
    async with aclosing(results):
        parts = [result.samples async for result in results if isinstance(result, AudioChunk)]
    return np.concatenate(parts)


def _check(codes: NDArray[np.int32], info: EngineInfo) -> None:
    if codes.ndim != 2 or codes.shape[0] != info.num_codebooks or codes.shape[1] == 0:
        raise InvalidInputError(
            f"codes are {info.num_codebooks} rows of equal length with at least one frame, one row "
            f"for each codebook of {info.model}; got the shape {list(codes.shape)}"
        )
    if codes.shape[1] > info.max_positions:
        raise InvalidInputError(
            f"{codes.shape[1]} frames are too many; at most {info.max_positions} are decoded at "
            "once, so send them in parts"
        )
    sizes = np.asarray(info.codebook_sizes)[:, None]
    if bool(((codes < 0) | (codes >= sizes)).any()):
        raise InvalidInputError(
            f"a code lies outside its codebook; the sizes are {list(info.codebook_sizes)}"
        )
