"""The composition root: settings -> engine -> service -> API.

``python -m backend.app`` serves it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from backend import __version__
from backend.api import (
    batch,
    cache,
    docs,
    emotions,
    health,
    jobs,
    metrics,
    models,
    root,
    speech,
    voices,
)
from backend.api.connections import ImpatientHttpProtocol
from backend.api.context import ApiContext
from backend.api.errors import PREDICTED_TTFA_HEADER, add_error_handlers
from backend.api.fish.routes import router as fish_router
from backend.api.middleware import BodyLimitMiddleware, RequestContextMiddleware
from backend.api.openai.routes import router as openai_router
from backend.api.openapi import describe_api
from backend.api.security import SecurityMiddleware, warn_if_open_to_all
from backend.api.streaming import SPEECH_HEADERS
from backend.core.errors import ConfigurationError, TTSError
from backend.core.garbage import keep_for_good
from backend.core.model_location import resolve_model_dir
from backend.core.settings import Settings, read_settings
from backend.core.threads import share_interpreter
from backend.service.cpu_pool import CpuPool
from backend.service.jobs import JobService
from backend.service.synthesis import SynthesisService
from backend.telemetry.card import CardWatch
from backend.telemetry.logs import setup_logging_of
from backend.telemetry.nvml import GpuSampler
from backend.worker.build import build_engine_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from backend.core.contract import EngineClient

logger = logging.getLogger(__name__)

ROUTERS = (
    root.router,
    speech.router,
    batch.router,
    jobs.router,
    models.router,
    voices.router,
    emotions.router,
    health.router,
    metrics.router,
    cache.router,
    docs.router,
    openai_router,
    fish_router,
)
"""Further dialects of the API are further routers on the same service."""

EXIT_MISCONFIGURED = 2

_DESCRIPTION = """Text to speech with voice cloning, on your own machine.

`POST /tts` speaks, `POST /tts/batch` speaks many texts, `POST /jobs` speaks a book in the
background; `GET /voices` and `GET /emotions` tell what can be asked for. Every answer that
is not a success has the body `{"error": {"type", "message", "param", "request_id"}}`; operations in
a foreign dialect answer with that dialect's own body.

Clients of OpenAI's API find it at `/v1` (`/v1/audio/speech`, `/v1/audio/voices`, `/v1/models`),
those of Fish Audio's at the root (`/v1/tts`, `/model`, `/v1/references`). The WebSocket
`/v1/tts/live` speaks text while it is written: msgpack events `start`, `text`, `flush`, `stop` go
in, `audio` and `finish` come out."""


def create_app(
    settings: Settings | None = None,
    engine: EngineClient | None = None,
    *,
    on_start_failure: Callable[[str], None] | None = None,
) -> FastAPI:
    """Put the service together. Nothing is loaded before the app's lifespan begins.

    Args:
        settings: Read from the environment and ``.env`` when None.
        engine: Another engine than the one the settings ask for (tests, another process).
        on_start_failure: Told why, when the engine cannot be loaded; without it the app goes on
            serving ``/health``, which then says ``failed``.

    Raises:
        SettingsError: A setting is unknown or malformed.
        CheckpointError: There is no such model.
    """
    settings = settings or read_settings()
    model_dir = resolve_model_dir(settings)
    engine = engine or build_engine_client(settings)
    pool = CpuPool()
    service = SynthesisService(engine, settings, model_dir, pool)
    job_service = JobService(service, settings, pool)
    gpu = GpuSampler(_gpu_index(settings))
    service.metrics.watch_gpu(gpu.read)
    card = CardWatch(gpu.read, lambda: service.metrics.is_busy)
    service.metrics.watch_card(card)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await pool.run(gpu.open)
        await pool.run(card.start)
        await engine.start()
        opening = asyncio.create_task(_open(service, job_service))
        opening.add_done_callback(partial(_report_opening, on_start_failure))
        app.state.opening = opening  # done when the service can speak, or never will
        try:
            yield
        finally:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            await job_service.close()
            await service.close()
            await asyncio.to_thread(card.close)
            gpu.close()
            await asyncio.to_thread(pool.close)

    app = FastAPI(
        title="Fish Speech server",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load their scripts from the internet
        redoc_url=None,
    )
    app.state.context = ApiContext(settings, service, gpu, pool, __version__, jobs=job_service)
    for router in ROUTERS:
        app.include_router(router)
    add_error_handlers(app)
    describe_api(app, asks_for_key=bool(settings.api_keys))
    _add_middleware(app, settings)
    return app


def main() -> int:
    """Serve until told to stop.

    Returns:
        Exit code: 0, or ``EXIT_MISCONFIGURED`` after one line that says what is wrong.
    """
    failures: list[str] = []
    share_interpreter()
    try:
        settings = read_settings()
        setup_logging_of(settings)
        warn_if_open_to_all(settings)
        app = create_app(settings, on_start_failure=lambda why: _stop(server, failures, why))
    except ConfigurationError as error:
        return _refuse(str(error))
    server = uvicorn.Server(server_config(app, settings))
    keep_for_good()
    try:
        server.run()
    except KeyboardInterrupt:  # uvicorn passes Ctrl-C on after a clean shutdown
        logger.info("stopped")
    return _refuse(failures[0]) if failures else 0


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Give how uvicorn serves ``app``: at a stop, speech has ``SHUTDOWN_GRACE_S`` to end."""
    # One worker always: a second one would be a second copy of the model.
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=ImpatientHttpProtocol,
        ws_max_size=settings.max_upload_mb << 20,
        workers=1,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )


async def _open(service: SynthesisService, jobs: JobService) -> None:
    await jobs.open()
    await service.open()
    await jobs.start()


def _report_opening(on_failure: Callable[[str], None] | None, opening: asyncio.Task[None]) -> None:
    error = None if opening.cancelled() else opening.exception()
    if error is None:
        return
    is_expected = isinstance(error, TTSError)
    if on_failure is None or not is_expected:
        # what the project raises on purpose says it all; anything else needs its traceback
        logger.error("the service cannot speak: %s", error, exc_info=None if is_expected else error)
    if on_failure is not None:
        on_failure(str(error) or type(error).__name__)


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """Add what every request passes; what is added last is met first."""
    app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_upload_mb << 20)
    app.add_middleware(SecurityMiddleware, settings=settings)
    app.add_middleware(RequestContextMiddleware)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=[*SPEECH_HEADERS, "Retry-After", PREDICTED_TTFA_HEADER],
    )


def _gpu_index(settings: Settings) -> int:
    _, _, index = settings.device.partition(":")
    return int(index or 0)


def _stop(server: uvicorn.Server, failures: list[str], why: str) -> None:
    failures.append(why)
    server.should_exit = True


def _refuse(why: str) -> int:
    sys.stderr.write(f"cannot start: {why}\n")
    return EXIT_MISCONFIGURED


if __name__ == "__main__":
    sys.exit(main())
