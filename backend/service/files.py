"""Sound in, the bytes of a file out: while it is made, or as one whole."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from backend.audio.encoders import encode_whole, make_encoder
from backend.telemetry.recent import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from numpy.typing import NDArray

    from backend.service.cpu_pool import CpuPool
    from backend.service.ledger import SpeechLedger


async def streamed_file(
    sound: AsyncGenerator[NDArray[np.float32], None],
    format_name: str,
    sample_rate: int,
    pool: CpuPool,
    ledger: SpeechLedger,
) -> AsyncGenerator[bytes, None]:
    """Yield a file's bytes as they are made; never empty ones.

    The header leaves together with the first sound, so that the first bytes mean sound.

    Args:
        sound: ``[S]`` float32 arrays at ``sample_rate``; closed by the caller.
        format_name: A name of ``OUTPUT_FORMATS``.
        sample_rate: In Hz.
        pool: Where encoding runs.
        ledger: Gets the time of the first byte and the time spent.
    """
    encoder = await pool.run(make_encoder, format_name, sample_rate)
    try:
        spent_s = 0.0
        held = encoder.header()
        async for samples in sound:
            started = time.monotonic()
            data = await pool.run(encoder.feed, samples)
            spent_s += time.monotonic() - started
            if data:
                ledger.note_first_audio()
                yield held + data
                held = b""
        started = time.monotonic()
        last = held + await pool.run(encoder.finish)
        ledger.add_stage(Stage.FILE, spent_s + time.monotonic() - started)
        ledger.note_first_audio()
        if last:
            yield last
    finally:
        encoder.close()


async def whole_file(
    sound: AsyncGenerator[NDArray[np.float32], None],
    format_name: str,
    sample_rate: int,
    pool: CpuPool,
    ledger: SpeechLedger,
) -> AsyncGenerator[bytes, None]:
    """Yield one piece: the finished file, whose header states its length.

    Arguments as for ``streamed_file``.
    """
    parts = [part async for part in sound]
    started = time.monotonic()
    data = await pool.run(lambda: encode_whole(format_name, np.concatenate(parts), sample_rate))
    ledger.add_stage(Stage.FILE, time.monotonic() - started)
    ledger.note_first_audio()
    yield data
