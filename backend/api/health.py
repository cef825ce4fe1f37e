"""``GET /health``: how the service is, at once and whatever it is doing."""

from __future__ import annotations

import time

from fastapi import APIRouter, Response

from backend.api.context import ApiContext, Context
from backend.api.schemas import GpuResponse, HealthResponse, QueueResponse
from backend.core.types import EngineState
from backend.telemetry.nvml import GpuReading

router = APIRouter(tags=["operation"])

_BYTES_PER_MIB = 1 << 20


@router.get("/health", summary="How the service is")
async def health(context: Context) -> HealthResponse:
    """Tell how the service is. Answers 200 as long as the process lives; see `status`."""
    return await _report(context)


@router.get(
    "/health/ready",
    summary="Whether the service can speak",
    responses={503: {"model": HealthResponse}},
)
async def ready(context: Context, response: Response) -> HealthResponse:
    """Answer 200 when the service can speak and 503 when it cannot, for load balancers."""
    report = await _report(context)
    response.status_code = 200 if report.status == EngineState.READY else 503
    return report


async def _report(context: ApiContext) -> HealthResponse:
    status, info, settings = context.service.status(), context.service.info, context.settings
    reading = await context.pool.run(context.gpu.read)  # the driver may take milliseconds
    return HealthResponse(
        status=status.state.value,
        detail=status.detail,
        model=info.model if info else settings.model,
        device=info.device if info else settings.device,
        precision=info.precision if info else settings.mixed_precision,
        quantization=info.quantization if info else settings.quantization,
        sample_rate=info.sample_rate if info else None,
        notes=list(info.notes) if info else [],
        queue=QueueResponse(
            running=status.num_running,
            waiting=status.num_waiting,
            max_running=status.max_running or settings.max_slots,
            max_waiting=settings.max_queue,
        ),
        memory_bytes=status.memory_bytes,
        restarts=status.restarts,
        last_failure=status.last_failure,
        memory_plan=dict(info.memory_plan) if info else {},
        gpus=[_gpu(reading)] if reading.available else [],
        version=context.version,
        uptime_s=round(time.monotonic() - context.started, 3),
    )


def _gpu(reading: GpuReading) -> GpuResponse:
    return GpuResponse(
        name=reading.name or "",
        memory_used_mib=_mib(reading.memory_used_bytes),
        memory_total_mib=_mib(reading.memory_total_bytes),
        utilization_percent=reading.utilization_percent,
        temperature_c=reading.temperature_c,
        power_w=reading.power_w,
    )


def _mib(num_bytes: int | None) -> float | None:
    return None if num_bytes is None else round(num_bytes / _BYTES_PER_MIB, 1)
