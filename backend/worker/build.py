"""From settings to an engine client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.core.model_location import resolve_model_dir
from backend.serving.limits import SchedulerLimits
from backend.worker.thread_client import EngineThread

if TYPE_CHECKING:
    from backend.core.contract import Engine, EngineClient
    from backend.core.settings import Settings


def build_engine_client(settings: Settings) -> EngineClient:
    """Make the client of the engine the settings ask for; nothing is loaded yet.

    Raises:
        CheckpointError: There is no such model.
    """
    directory = resolve_model_dir(settings)

    def load_engine() -> Engine:
        # here, not at the top: importing torch takes seconds and belongs to the engine's thread
        from backend.opt_engine import OptimizedEngine

        return OptimizedEngine.load(settings, directory)

    return EngineThread(
        load_engine,
        settings.chunk_size,
        settings.max_slots + settings.max_queue,
        SchedulerLimits.from_settings(settings),
    )
