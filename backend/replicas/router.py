"""Ray Serve's request router for the engine: to the voice's own replica, else the idler of two."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from ray.serve.request_router import RequestRouter  # pyright: ignore[reportMissingImports]

from backend.replicas.protocol import ANYWHERE, Route
from backend.replicas.routing import choose

if TYPE_CHECKING:
    from collections.abc import Sequence


class VoiceAffineRouter(RequestRouter):
    """Choose a replica by the ``Route`` that is every call's first argument.

    What it gives is a list of groups: Serve takes the member of the first group that has least to
    do and accepts, or goes on with the next group.
    """

    def initialize_state(self, *, by_voice: bool = True, num_free: int = 1, **_: Any) -> None:
        """Take the options of the deployment.

        Args:
            by_voice: False leaves the voice out of account.
            num_free: Streams that a voice's own replica takes however idle the others are.
        """
        self._by_voice = by_voice
        self._num_free = num_free

    async def choose_replicas(
        self, candidate_replicas: Sequence[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """Give the groups of replicas to try."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # or it asks without a pause
        route = _route_of(pending_request)
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        if route.replica in by_name:
            return [[by_name[route.replica]]]
        pair = random.sample(list(candidate_replicas), min(2, len(candidate_replicas)))
        own = choose(route.voice, self._loads(by_name), self._num_free) if self._by_voice else None
        return [pair] if own is None else [[by_name[own]], pair]

    def _loads(self, by_name: dict[str, Any]) -> dict[str, int]:
        known = self.replica_queue_len_cache
        return {name: known.get(replica.replica_id) or 0 for name, replica in by_name.items()}


def _route_of(pending_request: Any) -> Route:
    args = () if pending_request is None else pending_request.args
    return args[0] if args and isinstance(args[0], Route) else ANYWHERE
