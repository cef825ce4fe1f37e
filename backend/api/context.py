"""What the routes share, made once by ``app.py``."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from backend.core.settings import Settings
from backend.service.cpu_pool import CpuPool
from backend.service.jobs import JobService
from backend.service.synthesis import SynthesisService
from backend.telemetry.nvml import GpuSampler


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The service and what else routes need.

    Attributes:
        settings: As read at start.
        service: Speaks.
        gpu: Reads the card.
        pool: Threads for calls that may block.
        version: Of the project.
        jobs: Keeps and runs long texts.
        started: ``time.monotonic()`` when the process began to serve.
        started_at: UNIX time of the same moment.
    """

    settings: Settings
    service: SynthesisService
    gpu: GpuSampler
    pool: CpuPool
    version: str
    jobs: JobService
    started: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)


def _context_of(request: Request) -> ApiContext:
    return cast("ApiContext", request.app.state.context)


Context = Annotated[ApiContext, Depends(_context_of)]
"""Parameter type of routes that need the context."""
