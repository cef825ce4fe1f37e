"""Codes as the bytes of a ``.npy`` file, and whether codes fit a model."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backend.core.types import EngineInfo

MAX_CODES_BYTES = 4 << 20
"""Of one recording; an hour of S1-mini's codes takes 3 MiB."""

_BYTES_PER_CODE = 4
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<i4', 'fortran_order': False, "
    rb"'shape': \((?P<K>\d{1,4}), (?P<F>\d{1,8})\), \} *\n",
    re.DOTALL,
)
"""Of version 1.0 and exactly as NumPy writes it."""


def codes_fit(codes: NDArray[np.int32], info: EngineInfo) -> bool:
    """Tell whether ``codes`` are ``[K, F]``, ``F >= 1``, each inside its codebook."""
    if codes.ndim != 2 or codes.shape[0] != info.num_codebooks or codes.shape[1] == 0:
        return False
    sizes = np.asarray(info.codebook_sizes, dtype=np.int64)[:, None]
    return not bool(((codes < 0) | (codes >= sizes)).any())


def codes_to_npy(codes: NDArray[np.int32]) -> bytes:
    """Give ``[K, F]`` codes as the bytes of a ``.npy`` file."""
    target = io.BytesIO()
    np.lib.format.write_array(
        target, np.ascontiguousarray(codes, dtype="<i4"), version=(1, 0), allow_pickle=False
    )
    return target.getvalue()


def codes_from_npy(content: bytes) -> NDArray[np.int32]:
    """Read what ``codes_to_npy`` wrote.

    NumPy's own reader evaluates the header and makes the array before it looks for the data; a
    foreign file gets neither here.

    Raises:
        ValueError: It is no such file, or is not as long as its header says.
    """
    if len(content) > MAX_CODES_BYTES:
        raise ValueError(f"{len(content)} bytes are too many for codes")
    header = _HEADER.match(content)
    if header is None:
        raise ValueError("not a .npy file of [K, F] little-endian int32 codes")
    shape = int(header["K"]), int(header["F"])
    body = content[header.end() :]
    if min(shape) < 1 or len(body) != shape[0] * shape[1] * _BYTES_PER_CODE:
        raise ValueError(f"{len(body)} bytes are not what the header says, {shape}")
    codes = np.frombuffer(body, dtype="<i4").reshape(shape).astype(np.int32)
    codes.setflags(write=False)
    return codes
