"""From sound to the bytes of an answer, with the accounts kept whichever way a request ends."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeAlias

from backend.core.errors import DeadlineExceededError
from backend.core.types import FinishReason
from backend.service.files import plan_file, streamed_file, whole_file
from backend.service.ledger import SpeechLedger
from backend.service.requests import REFUSALS, Speech, SpeechRequest
from backend.telemetry.recent import RecentRequests, RequestStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.types import EngineInfo
    from backend.service.cpu_pool import CpuPool
    from backend.telemetry.metrics import Metrics

    MakeSound: TypeAlias = Callable[
        [SpeechRequest, EngineInfo, SpeechLedger],
        Awaitable[AsyncGenerator[NDArray[np.float32], None]],
    ]

logger = logging.getLogger(__name__)


class Delivery:
    """Begin answers. Confined to the event loop.

    Args:
        require_info: Gives facts about the engine, or raises ``EngineUnavailableError``.
        pool: Threads for effects and encoding.
        metrics: Everything that is counted.
        recent: Gets a record of every request.
    """

    def __init__(
        self,
        require_info: Callable[[], EngineInfo],
        pool: CpuPool,
        metrics: Metrics,
        recent: RecentRequests,
    ) -> None:
        self._require_info = require_info
        self._pool = pool
        self._metrics = metrics
        self._recent = recent

    async def begin(self, request: SpeechRequest, make_sound: MakeSound) -> Speech:
        """Begin an answer; returns when its first bytes exist.

        Args:
            request: Its format, effects and accounts.
            make_sound: Gives the samples; called once.

        Raises:
            Exception: Whatever stands in the way of the first bytes.
        """
        ledger = SpeechLedger(request.request_id)
        pieces = self._accounted(request, make_sound, ledger)
        try:
            first = await anext(pieces)
        except BaseException:
            await pieces.aclose()
            raise
        plan = plan_file(request, self._require_info().sample_rate)
        return Speech(
            media_type=plan.output.media_type,
            extension=plan.output.extension,
            sample_rate=plan.sample_rate,
            ledger=ledger,
            first=first,
            rest=pieces,
        )

    async def _accounted(
        self, request: SpeechRequest, make_sound: MakeSound, ledger: SpeechLedger
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes, and write down how it ended, whichever way it ends."""
        self._metrics.request_started()
        status, error_name, has_begun = RequestStatus.CANCELLED, None, False
        try:
            async with aclosing(self._bytes(request, make_sound, ledger)) as pieces:
                async for piece in pieces:
                    if not has_begun:  # what goes into the headers of a stream
                        self._note_device(ledger)
                        has_begun = True
                    yield piece
            status = RequestStatus.OK
            if ledger.finish_reason is FinishReason.TIMEOUT:
                status, error_name = RequestStatus.FAILED, DeadlineExceededError.__name__
        except Exception as error:
            status = RequestStatus.REJECTED if isinstance(error, REFUSALS) else RequestStatus.FAILED
            error_name = type(error).__name__
            raise
        finally:
            self._note_device(ledger)
            ledger.end(status, error_name)
            record = ledger.record()
            self._metrics.request_ended(record)
            self._recent.add(record)
            logger.info(
                "%s: voice=%s frames=%d audio_s=%.2f total_s=%.3f error=%s",
                status.value,
                ledger.voice,
                ledger.num_frames,
                ledger.audio_s or 0.0,
                ledger.total_s or 0.0,
                error_name,
            )

    def _note_device(self, ledger: SpeechLedger) -> None:
        ledger.peak_vram_bytes, ledger.gpu_percent = self._metrics.device_figures()

    async def _bytes(
        self, request: SpeechRequest, make_sound: MakeSound, ledger: SpeechLedger
    ) -> AsyncGenerator[bytes, None]:
        info = self._require_info()
        plan = plan_file(request, info.sample_rate)
        ledger.format, ledger.is_stream = plan.output.name, request.stream
        ledger.sample_rate, ledger.speed = info.sample_rate, request.speed
        make_file = streamed_file if request.stream else whole_file
        sound = await make_sound(request, info, ledger)
        pieces = make_file(sound, plan, self._pool, ledger)
        async with aclosing(sound), aclosing(pieces):
            async for piece in pieces:
                yield piece
