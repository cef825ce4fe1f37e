"""The engine as a Ray Serve deployment: one process for each replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import serve  # pyright: ignore[reportMissingImports]

from backend.replicas.replica import EngineReplica
from backend.replicas.router import VoiceAffineRouter
from backend.telemetry.logs import setup_logging_of
from backend.worker.build import build_engine_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from backend.core.cluster_settings import ClusterSettings
    from backend.core.settings import Settings
    from backend.core.types import SynthesisRequest
    from backend.replicas.protocol import ReplicaReport, Route, StreamItem, Verb

ENGINE_DEPLOYMENT = "engine"
HEALTH_CHECK_EVERY_S = 2.0
_LOOK_BACK_S = 5.0
_SPARE_CALLS = 32
"""Calls beside streams that a replica takes: it must never refuse the grant of its own stream."""


class EngineDeployment:
    """``EngineReplica`` as Serve starts and calls it. ``route`` is for the router alone.

    Args:
        settings: As the starter read them; relative paths are already absolute.
        cpu_threads: For an engine on the CPU.
    """

    async def __init__(self, settings: Settings, cpu_threads: int) -> None:  # pyright: ignore[reportGeneralTypeIssues]
        setup_logging_of(settings)
        if not settings.cpu_threads:
            settings = settings.model_copy(update={"cpu_threads": cpu_threads})
        name = serve.get_replica_context().replica_id.unique_id
        self._replica = EngineReplica(build_engine_client(settings), name)
        await self._replica.open()  # until then Serve sends nothing here

    async def stream(
        self, route: Route, stream_id: str, request: SynthesisRequest
    ) -> AsyncGenerator[StreamItem, None]:
        """As ``EngineReplica.stream``."""
        del route
        items = self._replica.stream(stream_id, request)
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()

    async def grant(self, route: Route, stream_id: str, num_chunks: int) -> None:
        """As ``EngineReplica.grant``."""
        del route
        self._replica.grant(stream_id, num_chunks)

    async def call(self, route: Route, verb: Verb, args: tuple[Any, ...]) -> Any:
        """As ``EngineReplica.call``."""
        del route
        return await self._replica.call(verb, args)

    async def clear_caches(self) -> dict[str, int]:
        """As ``EngineReplica.clear_caches``."""
        return await self._replica.clear_caches()

    async def report(self) -> ReplicaReport:
        """As ``EngineReplica.report``."""
        return self._replica.report()

    async def check_health(self) -> None:
        """Fail when the engine is lost; Serve then replaces this replica."""
        self._replica.check_health()

    async def __del__(self) -> None:
        """Stop the engine when Serve stops the replica, after its streams have ended."""
        if hasattr(self, "_replica"):
            await self._replica.close()


def engine_options(
    settings: Settings, cluster: ClusterSettings, num_replicas: int, *, has_gpus: bool
) -> dict[str, Any]:
    """Give Serve's options for the engine.

    Args:
        settings: Of the service.
        cluster: Of the cluster.
        num_replicas: That are always there.
        has_gpus: Whether a replica takes a GPU or works on the CPU.
    """
    max_streams = settings.max_slots + settings.max_queue
    options: dict[str, Any] = {
        "name": ENGINE_DEPLOYMENT,
        "ray_actor_options": {
            "num_cpus": cluster.cpus_per_replica,
            "num_gpus": cluster.gpus_per_replica if has_gpus else 0,
        },
        "max_ongoing_requests": 2 * max_streams + _SPARE_CALLS,
        "max_queued_requests": max_streams,
        "health_check_period_s": HEALTH_CHECK_EVERY_S,
        "graceful_shutdown_timeout_s": cluster.drain_timeout_s,
        "request_router_config": {
            "request_router_class": f"{VoiceAffineRouter.__module__}:{VoiceAffineRouter.__name__}",
            "request_router_kwargs": {
                "by_voice": cluster.routing == "voice",
                "num_free": max(1, settings.max_slots // 2),
            },
        },
        "logging_config": {"enable_access_log": False},
    }
    if cluster.max_replicas > num_replicas:
        options["autoscaling_config"] = {
            "min_replicas": num_replicas,
            "max_replicas": cluster.max_replicas,
            "target_ongoing_requests": cluster.streams_wanted(settings.max_slots),
            "upscale_delay_s": cluster.upscale_delay_s,
            "downscale_delay_s": cluster.downscale_delay_s,
            "look_back_period_s": _LOOK_BACK_S,
        }
    else:
        options["num_replicas"] = num_replicas
    return options
