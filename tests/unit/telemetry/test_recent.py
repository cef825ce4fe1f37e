from __future__ import annotations

import json

import pytest

from backend.core.errors import RequestNotFoundError
from backend.telemetry.recent import RecentRequests, RequestRecord, RequestStatus, Stage


def record(request_id: str, **facts: object) -> RequestRecord:
    return RequestRecord(request_id, RequestStatus.OK, started_at=1.0, **facts)  # type: ignore[arg-type]


def test_a_record_is_found_by_its_id() -> None:
    recent = RecentRequests(3)
    recent.add(record("a"))
    assert recent.find("a") == record("a")


def test_an_unknown_id_is_an_error_that_names_it_and_the_limit() -> None:
    with pytest.raises(RequestNotFoundError, match=r"'x'.*last 3"):
        RecentRequests(3).find("x")


def test_a_hostile_id_does_not_flood_the_message() -> None:
    with pytest.raises(RequestNotFoundError) as caught:
        RecentRequests(3).find("x" * 100_000)
    assert len(str(caught.value)) < 300


def test_the_oldest_records_are_forgotten() -> None:
    recent = RecentRequests(3)
    for request_id in "abcd":
        recent.add(record(request_id))
    with pytest.raises(RequestNotFoundError):
        recent.find("a")
    assert [found.request_id for found in recent.newest(2)] == ["d", "c"]
    assert len(recent.newest(99)) == 3


def test_a_second_record_of_the_same_request_replaces_the_first() -> None:
    recent = RecentRequests(2)
    recent.add(record("a"))
    recent.add(record("b"))
    recent.add(record("a", num_frames=7))
    recent.add(record("c"))
    assert recent.find("a").num_frames == 7
    with pytest.raises(RequestNotFoundError):
        recent.find("b")


def test_the_real_time_factor_is_time_over_audio() -> None:
    fast = record("a", audio_s=4.0, total_s=1.0)
    assert fast.rtf == 0.25
    assert fast.x_realtime == 4.0


@pytest.mark.parametrize("facts", [{}, {"audio_s": 0.0, "total_s": 1.0}, {"audio_s": 1.0}])
def test_without_audio_or_time_there_is_no_factor(facts: dict[str, float]) -> None:
    assert record("a", **facts).rtf is None
    assert record("a", **facts).x_realtime is None


def test_a_record_is_plain_json_with_its_factors() -> None:
    full = record(
        "a",
        audio_s=2.0,
        total_s=1.0,
        stages_s={Stage.PREFILL: 0.25},
        cache_hits={"voice_codes": True},
    )
    plain = json.loads(json.dumps(full.as_json()))
    assert plain["rtf"] == 0.5
    assert plain["status"] == "ok"
    assert plain["stages_s"] == {"prefill": 0.25}
    assert plain["cache_hits"] == {"voice_codes": True}
    assert plain["error"] is None
    assert plain["ttfa_s"] is None


def test_a_store_has_room() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RecentRequests(0)
