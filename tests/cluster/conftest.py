"""Clusters as a user starts them: processes of their own, reached over HTTP."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.processes import Child, free_port, stop_all

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 100.0
ENGINE_TITLE = "ray::ServeReplica:speech:engine"


@dataclass
class Cluster:
    """A running cluster.

    Attributes:
        http: A client of its API.
        child: The process that was started.
    """

    http: httpx.Client
    child: Child

    def max_running(self) -> int:
        """Slots of all replicas that have reported."""
        return int(self.http.get("/health").json()["queue"]["max_running"])

    def engines(self) -> list[int]:
        """Process ids of the replicas of the engine."""
        return [pid for pid in pids_of(self.child.pid) if title_of(pid).startswith(ENGINE_TITLE)]

    def prompts_known(self) -> tuple[int, int]:
        """Hits and misses of the replicas' caches of prompts."""
        counters = self.http.get("/metrics").json()["caches"]["prefix_kv"]
        return counters["hits"], counters["misses"]


RunCluster = Callable[..., Any]


@pytest.fixture(scope="session")
def run_cluster(tmp_path_factory: pytest.TempPathFactory) -> RunCluster:
    """Start clusters with given settings; each is stopped at the end of its ``with``."""
    pytest.importorskip("ray", reason="python scripts/test.py --ray makes an environment with Ray")

    @contextmanager
    def run(num_replicas: int, num_slots: int, **settings: Any) -> Iterator[Cluster]:
        folder = tmp_path_factory.mktemp("cluster")
        port = free_port()
        chosen = {
            "MODEL": "pocket",
            "PORT": port,
            "DATA_DIR": folder,
            "ENGINE_ISOLATION": "thread",
            "CPU_THREADS": 1,
            "CACHE_LIMIT": 0,  # the API's own caches would keep what the replicas should show
            "MAX_SLOTS": num_slots,
            "CLUSTER_REPLICAS": num_replicas,
            **settings,
        }
        env = {**os.environ, **{key: str(value) for key, value in chosen.items()}}
        command = [sys.executable, "-m", "backend.cluster"]
        child = Child("cluster", command, env, ROOT, folder / "cluster.log")
        try:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60
            ) as http:
                cluster = Cluster(http, child)
                until(lambda: is_ready(cluster), START_LIMIT_S, child)
                until(lambda: cluster.max_running() == num_replicas * num_slots, child=child)
                yield cluster
        finally:
            stop_all([child])

    return run


@pytest.fixture(scope="session")
def cluster(run_cluster: RunCluster) -> Iterator[Cluster]:
    """Two replicas with six slots each."""
    with run_cluster(2, 6) as running:
        yield running


def is_ready(cluster: Cluster) -> bool:
    """Tell whether the API says that it can speak."""
    assert cluster.child.exit_code() is None, cluster.child.obituary()
    try:
        return cluster.http.get("/health/ready").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def until(condition: Callable[[], bool], limit_s: float = 60.0, child: Child | None = None) -> None:
    """Ask again and again until something is so; other processes have to be waited for."""
    deadline = time.monotonic() + limit_s
    while not condition():
        why = "" if child is None else f"\n{child.last_lines()}"
        assert time.monotonic() < deadline, f"not within {limit_s:g} s{why}"
        time.sleep(0.1)


def pids_of(session: int) -> list[int]:
    """Give the processes of a session: all that a cluster started."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text() if entry.name.isdigit() else ""
        except OSError:  # it has just ended
            continue
        if stat and int(stat.rpartition(")")[2].split()[3]) == session:
            found.append(int(entry.name))
    return found


def title_of(pid: int) -> str:
    """Give what a process calls itself."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""
