"""Settings of the cluster: read only where the service runs on Ray.

They share environment and ``.env`` with ``backend/core/settings.py``, which refuses unknown keys
of the file for both. The text under a field is its documentation.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend.core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

ENV_PREFIX = "CLUSTER_"

_BUSY_SHARE = 0.75
"""Share of its slots that a replica should have in use; the rest takes what comes in bursts."""

_RAY_DEFAULTS = {
    # Ray's daemons then listen on 127.0.0.1 alone; the switch is called after the systems where it
    # is the default, and works on Linux as well.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class ClusterSettings(BaseSettings):
    """How many copies of the engine there are and who goes to which."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="ignore",
        case_sensitive=False,
        use_attribute_docstrings=True,
    )

    replicas: int = Field(default=0, ge=0, le=4096)
    """Copies of the engine. 0: one for each GPU that Ray finds, or one without GPUs. With
    CLUSTER_MAX_REPLICAS above it the fewest that are kept."""

    max_replicas: int = Field(default=0, ge=0, le=4096)
    """Most copies of the engine: Ray starts further ones when streams wait and stops them when
    there are few. 0: always CLUSTER_REPLICAS."""

    target_streams: int = Field(default=0, ge=0, le=100000)
    """Streams, spoken and waiting, that a copy should have while Ray decides about their number.
    0: three quarters of MAX_SLOTS."""

    upscale_delay_s: float = Field(default=10.0, ge=0, le=3600)
    """Seconds that there have to be too many streams before a copy is added."""

    downscale_delay_s: float = Field(default=300.0, ge=0, le=86400)
    """Seconds that there have to be few streams before a copy is stopped."""

    routing: Literal["voice", "balanced"] = "voice"
    """Where a request goes. `voice`: to the copy that spoke the voice before, unless it has much
    more to do than the others. `balanced`: to the one of two chosen by chance that has less."""

    gpus_per_replica: float = Field(default=1.0, gt=0, le=1)
    """Share of a GPU that a copy takes where there are GPUs; below 1 several copies share one, and
    MEMORY_BUDGET_MB has to leave room for all."""

    cpus_per_replica: float = Field(default=1.0, ge=0, le=256)
    """CPUs that Ray sets aside for a copy; without GPUs also the threads it works with, unless
    CPU_THREADS says something else."""

    api_replicas: int = Field(default=1, ge=1, le=1000)
    """Copies of the HTTP side. Above 1 they share DATA_DIR, which has to be on a disk of one
    machine, or VOICES_URL; MAX_JOBS has to be 0: jobs have one owner."""

    drain_timeout_s: float = Field(default=120.0, ge=0, le=3600)
    """Seconds that a copy which is being stopped may take to finish what it speaks."""

    def streams_wanted(self, max_slots: int) -> float:
        """Give the number of streams that a replica of ``max_slots`` should have."""
        return float(self.target_streams or max(1, round(_BUSY_SHARE * max_slots)))


def cluster_keys() -> frozenset[str]:
    """Give the environment keys of all cluster settings."""
    return frozenset(ENV_PREFIX + name.upper() for name in ClusterSettings.model_fields)


def read_cluster_settings(
    env_file: Path | None = Path(".env"), **overrides: Any
) -> ClusterSettings:
    """Read the settings.

    Args:
        env_file: ``KEY=value`` lines; skipped when None or absent.
        overrides: Values that win over both file and environment, by field name.

    Raises:
        SettingsError: A value is malformed, or a name in the environment is nearly one of these.
    """
    present = env_file if env_file is not None and env_file.is_file() else None
    _refuse_near_misses(os.environ)
    try:
        return ClusterSettings(_env_file=present, _env_file_encoding="utf-8", **overrides)  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        parts = [
            f"{ENV_PREFIX}{str(item['loc'][0]).upper()}={item['input']!r}: {item['msg']}"
            for item in error.errors(include_url=False, include_context=False)
        ]
        raise SettingsError("malformed setting: " + "; ".join(parts)) from error


def prepare_ray() -> None:
    """Keep Ray at home: on this machine's own address, and without usage statistics.

    Only works before ``import ray``; what the environment says already stays.
    """
    for name, value in _RAY_DEFAULTS.items():
        os.environ.setdefault(name, value)


def _refuse_near_misses(environment: Iterable[str]) -> None:
    known = cluster_keys()
    for name in environment:
        key = name.upper()
        if key.startswith(ENV_PREFIX) and key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.85)
            if close:
                raise SettingsError(
                    f"unknown setting {key} in the environment; did you mean {close[0]}?"
                )
