"""From settings to an engine client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.core.model_location import resolve_model_dir
from backend.serving.limits import SchedulerLimits
from backend.serving.scheduler import Scheduler
from backend.telemetry.logs import setup_logging_of
from backend.worker.client import TransportClient
from backend.worker.process_transport import ProcessTransport
from backend.worker.restart_policy import RestartPolicy
from backend.worker.thread_transport import ThreadTransport

if TYPE_CHECKING:
    from pathlib import Path

    from backend.core.contract import Engine
    from backend.core.settings import Settings
    from backend.worker.protocol import Deliver, Transport

LISTENER_CREDIT = 4
"""Chunks made ahead of a listener before its sequence pauses."""


@dataclass(frozen=True, slots=True)
class OptimizedEngineSource:
    """Fulfills ``worker.protocol.EngineSource`` with the real engine.

    Attributes:
        settings: As the service read them.
        directory: Of the model.
    """

    settings: Settings
    directory: Path

    def prepare_process(self) -> None:
        """Log as the service does."""
        setup_logging_of(self.settings)

    def load(self) -> Engine:
        """Load the model."""
        # here, not at the top: importing torch takes seconds and belongs to the engine's thread
        from backend.opt_engine import OptimizedEngine

        return OptimizedEngine.load(self.settings, self.directory)

    def make_scheduler(self, engine: Engine) -> Scheduler:
        """Make the scheduler that the settings describe."""
        limits = SchedulerLimits.from_settings(self.settings)
        return Scheduler(engine, self.settings.chunk_size, LISTENER_CREDIT, limits=limits)


def build_engine_client(settings: Settings) -> TransportClient:
    """Make the client of the engine the settings ask for; nothing is loaded yet.

    Raises:
        CheckpointError: There is no such model.
    """
    source = OptimizedEngineSource(settings, resolve_model_dir(settings))

    def make_transport(deliver: Deliver) -> Transport:
        if settings.engine_isolation == "thread":
            return ThreadTransport(source, deliver)
        return ProcessTransport(source, deliver)

    max_open = settings.max_slots + settings.max_queue
    return TransportClient(make_transport, max_open, RestartPolicy.of(settings))
