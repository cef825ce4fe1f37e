"""The replicas as Ray Serve reaches them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError, RayTaskError  # pyright: ignore[reportMissingImports]
from ray.serve.exceptions import (  # pyright: ignore[reportMissingImports]
    BackPressureError,
    RayServeException,
)

from backend.core.errors import GenerationError, QueueFullError, TTSError
from backend.replicas.protocol import ANYWHERE, ReplicaLostError, ReplicaReport, Route

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from backend.core.types import SynthesisRequest
    from backend.replicas.protocol import StreamItem, Verb

REPORT_TIMEOUT_S = 5.0


class ServeReplicas:
    """Fulfills ``Replicas`` with a handle of the engine's deployment.

    Args:
        handle: A ``ray.serve.handle.DeploymentHandle``.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._streams = handle.options(method_name="stream", stream=True)
        self._grants = handle.options(method_name="grant")
        self._calls = handle.options(method_name="call")

    async def stream(
        self, route: Route, stream_id: str, request: SynthesisRequest
    ) -> AsyncGenerator[StreamItem, None]:
        """Begin to speak."""
        response = self._streams.remote(route, stream_id, request)
        has_ended = False
        try:
            async for item in response:
                yield item
            has_ended = True
        except (RayError, RayServeException) as error:
            has_ended = True
            raise _translated(error) from error
        finally:
            if not has_ended:
                response.cancel()

    def grant(self, replica: str, stream_id: str, num_chunks: int) -> None:
        """Let a stream's replica send further chunks; whether it arrives, the stream tells."""
        self._grants.remote(Route(replica=replica), stream_id, num_chunks)

    async def call(self, verb: Verb, args: tuple[Any, ...]) -> Any:
        """Ask any replica."""
        try:
            answer = await self._calls.remote(ANYWHERE, verb, args)
        except (RayError, RayServeException) as error:
            raise _translated(error) from error
        if isinstance(answer, TTSError):
            raise answer
        return answer

    async def clear_caches(self) -> list[dict[str, int]]:
        """Empty the caches of every replica."""
        try:
            return await self._handle.broadcast("clear_caches").results_async()
        except (RayError, RayServeException) as error:
            raise _translated(error) from error

    async def reports(self) -> list[ReplicaReport]:
        """Ask every replica how it is."""
        asked = self._handle.broadcast("report")
        try:
            answers = await asked.results_async(timeout_s=REPORT_TIMEOUT_S, return_exceptions=True)
        except (RayError, RayServeException, TimeoutError):
            return []  # there is none, or none that answers
        return [answer for answer in answers if isinstance(answer, ReplicaReport)]


def _translated(error: Exception) -> Exception:
    """Say in the project's own words what Ray says."""
    if isinstance(error, BackPressureError):
        return QueueFullError("too many requests wait for a replica; try again in a moment")
    if isinstance(error, RayTaskError):
        cause: Any = error.cause  # pyright: ignore[reportAttributeAccessIssue]
        return GenerationError(f"the replica failed: {type(cause).__name__}: {cause}")
    return ReplicaLostError("the replica of the engine died")
