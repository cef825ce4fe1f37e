"""The composition root on Ray Serve: the same app, and the engine as replicas of it.

``python -m backend.cluster`` serves on this machine alone; ``serve run backend.cluster:build`` and
``serve deploy`` on a cluster that runs already (``backend/docs/cluster.md``).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from backend.core.cluster_settings import (
    ENV_PREFIX,
    ClusterSettings,
    prepare_ray,
    read_cluster_settings,
)
from backend.core.errors import ConfigurationError, SettingsError, TTSError
from backend.core.model_location import POCKET_MODEL, S1_MINI_MODEL, resolve_model_dir
from backend.core.settings import Settings, read_settings

prepare_ray()  # before Ray reads its environment, which it does when it is imported

import ray  # noqa: E402  # pyright: ignore[reportMissingImports]
from ray import serve  # noqa: E402  # pyright: ignore[reportMissingImports]

from backend.app import EXIT_MISCONFIGURED, create_app  # noqa: E402
from backend.replicas.deployment import (  # noqa: E402
    HEALTH_CHECK_EVERY_S,
    EngineDeployment,
    engine_options,
)
from backend.replicas.remote_engine import RemoteEngineClient  # noqa: E402
from backend.replicas.serve_calls import ServeReplicas  # noqa: E402
from backend.telemetry.logs import setup_logging_of  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fastapi import FastAPI

logger = logging.getLogger(__name__)

API_DEPLOYMENT = "api"
APP_NAME = "speech"
MAX_OPEN_HTTP = 4096
"""Requests and WebSockets that one copy of the API holds; the engine's limits come first."""
LEAVE_LIMIT_S = 5.0


@serve.ingress()
class ApiDeployment:
    """The FastAPI app as Serve starts it.

    Args:
        settings: As the starter read them.
        engine: Handle of the engine's deployment.
    """

    def __init__(self, settings: Settings, engine: Any) -> None:
        self._settings = settings
        self._engine = engine
        self._served: FastAPI | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Make the app; Serve calls this once, in the replica's process."""
        setup_logging_of(self._settings)
        engine = RemoteEngineClient(partial(ServeReplicas, self._engine))
        self._served = create_app(self._settings, engine)
        return self._served

    async def check_health(self) -> None:
        """See what other copies did to the voices: Serve asks every copy now and then.

        Voices that cannot be read are no reason to replace a copy that can speak.
        """
        if self._served is None:
            return
        try:
            await self._served.state.context.service.voice_service.refresh()
        except TTSError as error:
            logger.warning("the voices of other copies cannot be read: %s", error)


def build(arguments: Mapping[str, str] | None = None) -> Any:
    """Put the application together; what ``import_path`` of a Serve config names.

    Args:
        arguments: Settings by their names in the environment; they win over it.

    Raises:
        SettingsError: A setting is unknown, malformed, or does not go with the others.
        CheckpointError: There is no such model.
    """
    settings, cluster = _read(arguments or {})
    has_gpus = settings.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
    num_replicas = cluster.replicas or _default_replicas(cluster, has_gpus=has_gpus)
    engine = serve.deployment(EngineDeployment).options(  # pyright: ignore[reportFunctionMemberAccess]
        **engine_options(settings, cluster, num_replicas, has_gpus=has_gpus)
    )
    api = serve.deployment(ApiDeployment).options(  # pyright: ignore[reportFunctionMemberAccess]
        name=API_DEPLOYMENT,
        num_replicas=cluster.api_replicas,
        ray_actor_options={"num_cpus": 0},  # its work is small beside the engine's
        max_ongoing_requests=MAX_OPEN_HTTP,
        health_check_period_s=HEALTH_CHECK_EVERY_S,
        graceful_shutdown_timeout_s=cluster.drain_timeout_s,
        logging_config={"enable_access_log": False},
    )
    cpu_threads = 0 if has_gpus else max(1, int(cluster.cpus_per_replica))
    return api.bind(settings, engine.bind(settings, cpu_threads))


def main() -> int:
    """Serve on this machine until told to stop.

    Returns:
        Exit code: 0, or ``EXIT_MISCONFIGURED`` after one line that says what is wrong.
    """
    stop = threading.Event()
    try:
        settings, _ = _read({})
        setup_logging_of(settings)
        _start_ray(settings)
        for name in ("SIGINT", "SIGTERM"):
            signal.signal(getattr(signal, name), lambda *_: stop.set())
        serve.run(build(), name=APP_NAME, route_prefix="/")
    except (ConfigurationError, RuntimeError) as error:  # RuntimeError: Serve gave up on a replica
        sys.stderr.write(f"cannot start: {error}\n")
        ray.shutdown()
        return EXIT_MISCONFIGURED
    logger.info("serving on http://%s:%d", settings.host, settings.port)
    stop.wait()
    _leave_ray()
    return 0


def _start_ray(settings: Settings) -> None:
    ray.init(_node_ip_address="127.0.0.1", include_dashboard=False)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.host, "port": settings.port},
    )


def _leave_ray() -> None:
    """Stop Ray; at once when its daemons are already on their way.

    A signal to the whole process group, as a console and ``scripts/start.py`` send it, ends them as
    well; Ray then waits in vain for their farewell. What is left of them ends with this process.
    """
    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVE_LIMIT_S)
    if leaving.is_alive():
        logging.shutdown()
        os._exit(0)


def _read(arguments: Mapping[str, str]) -> tuple[Settings, ClusterSettings]:
    own: dict[str, Any] = {key.upper(): value for key, value in arguments.items()}
    for_cluster: dict[str, Any] = {
        key.removeprefix(ENV_PREFIX).lower(): own.pop(key)
        for key in list(own)
        if key.startswith(ENV_PREFIX)
    }
    for key, known in ((own, Settings.model_fields), (for_cluster, ClusterSettings.model_fields)):
        for name in key:
            if name.lower() not in known:
                raise SettingsError(f"unknown setting {name} in the arguments of the application")
    settings = read_settings(**{key.lower(): value for key, value in own.items()})
    cluster = read_cluster_settings(**for_cluster)
    resolve_model_dir(settings)
    if cluster.api_replicas > 1 and settings.max_jobs:
        raise SettingsError("CLUSTER_API_REPLICAS above 1 needs MAX_JOBS=0: jobs have one owner")
    return _with_absolute_paths(settings), cluster


def _with_absolute_paths(settings: Settings) -> Settings:
    """Give settings that mean the same in every process of this machine."""
    paths: dict[str, Path | str] = {
        "models_dir": settings.models_dir.expanduser().absolute(),
        "data_dir": settings.data_dir.expanduser().absolute(),
    }
    if settings.model not in (POCKET_MODEL, S1_MINI_MODEL):
        paths["model"] = str(resolve_model_dir(settings))
    return settings.model_copy(update=paths)


def _default_replicas(cluster: ClusterSettings, *, has_gpus: bool) -> int:
    if not has_gpus:
        return 1
    return max(1, int(ray.cluster_resources()["GPU"] / cluster.gpus_per_replica))


if __name__ == "__main__":
    # By its own name: Ray sends classes of a main program by value and those of a module by name.
    from backend.cluster import main as serve_until_stopped

    sys.exit(serve_until_stopped())
