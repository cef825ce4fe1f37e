from __future__ import annotations

from pathlib import Path

import pytest

from backend.core.cluster_settings import (
    ClusterSettings,
    cluster_keys,
    prepare_ray,
    read_cluster_settings,
)
from backend.core.errors import SettingsError
from backend.core.settings import read_settings


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text("CLUSTER_REPLICAS=2\nCLUSTER_ROUTING=balanced\nMODEL=pocket\n")
    monkeypatch.setenv("CLUSTER_REPLICAS", "3")
    cluster = read_cluster_settings(file)
    assert (cluster.replicas, cluster.routing) == (3, "balanced")


def test_the_service_takes_a_file_with_cluster_keys(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("CLUSTER_REPLICAS=2\nPORT=8123\n")
    assert read_settings(file).port == 8123


def test_the_service_refuses_an_unknown_cluster_key(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("CLUSTER_REPLICA_COUNT=2\n")
    with pytest.raises(SettingsError, match="CLUSTER_REPLICA_COUNT"):
        read_settings(file)


def test_a_near_miss_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_REPLICSA", "2")
    with pytest.raises(SettingsError, match="did you mean CLUSTER_REPLICAS"):
        read_cluster_settings(None)


def test_a_malformed_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_ROUTING", "random")
    with pytest.raises(SettingsError, match="CLUSTER_ROUTING='random'"):
        read_cluster_settings(None)


def test_a_replica_should_use_three_quarters_of_its_slots() -> None:
    assert ClusterSettings().streams_wanted(64) == 48
    assert ClusterSettings().streams_wanted(1) == 1
    assert ClusterSettings(target_streams=10).streams_wanted(64) == 10


def test_ray_is_kept_at_home_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    prepare_ray()
    import os

    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")


def test_every_key_begins_alike() -> None:
    assert all(key.startswith("CLUSTER_") and key.isupper() for key in cluster_keys())
