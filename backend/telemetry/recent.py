"""What each of the last requests cost, by request id."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from backend.core.errors import RequestNotFoundError


class RequestStatus(StrEnum):
    """How a request ended."""

    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """The client left."""
    REJECTED = "rejected"
    """It was refused before any work: bad input, full queue."""


class Stage(StrEnum):
    """The stages that are timed, in the order of a request's life."""

    QUEUE = "queue"
    ENCODE_REFERENCE = "encode_reference"
    PREFILL = "prefill"
    SEMANTIC = "semantic"
    CODEC = "codec"
    FILE = "file"
    """Effects and the output format."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """Facts about one request. None means that it was not measured or did not happen, never 0.

    Attributes:
        request_id: Names the request in logs, headers and here.
        status: How it ended.
        started_at: UNIX time in seconds.
        error: Class name of the error, or None.
        voice: Name of the voice; ``"upload"`` for a recording that came along.
        format: Name of the output format.
        seed: What fixed the noise.
        num_chars: Characters of text.
        num_frames: Codec frames made.
        finish_reason: Why the speech ended.
        num_underruns: Times the listener of a stream ran dry, by the scheduler's clock.
        audio_s: Seconds of speech handed out.
        total_s: From the body read to the last byte.
        ttfa_s: From the body read to the first audio byte.
        ttff_s: From admission to the first frame.
        stages_s: Seconds per stage; stages that did not run are absent.
        cache_hits: For each cache that was asked, whether it had the answer.
        troubles: What went wrong with the speech: ``too_long``, ``repeating``, ``silent``.
        peak_vram_bytes: The engine's most device memory until then.
        gpu_percent: Utilization of the card at the end.
    """

    request_id: str
    status: RequestStatus
    started_at: float
    error: str | None = None
    voice: str | None = None
    format: str | None = None
    seed: int | None = None
    num_chars: int | None = None
    num_frames: int | None = None
    finish_reason: str | None = None
    num_underruns: int | None = None
    audio_s: float | None = None
    total_s: float | None = None
    ttfa_s: float | None = None
    ttff_s: float | None = None
    stages_s: dict[Stage, float] | None = None
    cache_hits: dict[str, bool] | None = None
    troubles: tuple[str, ...] = ()
    peak_vram_bytes: int | None = None
    gpu_percent: int | None = None

    @property
    def rtf(self) -> float | None:
        """Compute seconds per second of speech: below 1 is faster than real time."""
        if not self.audio_s or self.total_s is None:
            return None
        return self.total_s / self.audio_s

    @property
    def x_realtime(self) -> float | None:
        """How many times faster than real time: ``1 / rtf``."""
        rtf = self.rtf
        return 1 / rtf if rtf else None

    def as_json(self) -> dict[str, Any]:
        """Give the record with ``rtf`` and ``x_realtime`` as plain JSON values."""
        plain = asdict(self)
        if self.stages_s is not None:
            plain["stages_s"] = {stage.value: spent for stage, spent in self.stages_s.items()}
        return {
            **plain,
            "troubles": list(self.troubles),
            "status": self.status.value,
            "rtf": self.rtf,
            "x_realtime": self.x_realtime,
        }


class RecentRequests:
    """Keep the records of the last requests. Any thread may call anything at any time.

    Args:
        max_records: Older records than this many are forgotten.
    """

    def __init__(self, max_records: int) -> None:
        if max_records < 1:
            raise ValueError(f"max_records must be at least 1, got {max_records}")
        self._max_records = max_records
        self._lock = threading.Lock()
        self._records: OrderedDict[str, RequestRecord] = OrderedDict()

    def add(self, record: RequestRecord) -> None:
        """Keep a record; one with the same id is replaced and counts as new."""
        with self._lock:
            self._records.pop(record.request_id, None)
            self._records[record.request_id] = record
            while len(self._records) > self._max_records:
                self._records.popitem(last=False)

    def find(self, request_id: str) -> RequestRecord:
        """Look a record up.

        Raises:
            RequestNotFoundError: There is none (any more).
        """
        with self._lock:
            record = self._records.get(request_id)
        if record is None:
            raise RequestNotFoundError(
                f"no record of request {request_id[:80]!r}; the last {self._max_records} finished "
                "requests are kept"
            )
        return record

    def newest(self, max_records: int) -> list[RequestRecord]:
        """Give up to ``max_records`` records, newest first."""
        with self._lock:
            records = list(self._records.values())
        return records[::-1][:max_records]
