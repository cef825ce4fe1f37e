"""The stored jobs: what survives, what is bounded, what is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from backend.core.errors import (
    JobLimitError,
    JobNotFoundError,
    JobStorageError,
    ServiceClosedError,
)
from backend.core.types import SamplingParams, Turn
from backend.service.job_store import JobStore
from backend.service.job_types import FileWish, JobPlan, JobStatus

PLAN = JobPlan(
    model="fake",
    revision="fake-1",
    sample_rate=16_000,
    frame_length=320,
    voice="alto",
    sampling=SamplingParams(temperature=0.3, seed=7),
    file=FileWish("mp3", 24_000, speed=2.0),
    warnings=("Beware.",),
)
SEGMENTS = ["One.", "Two.", "Three."]


def codes(num_frames: int) -> np.ndarray:
    return np.random.default_rng(num_frames).integers(0, 16, (3, num_frames)).astype(np.int32)


def opened(path: Path, max_jobs: int = 3, max_mb: int = 10) -> JobStore:
    store = JobStore(path / "data" / "jobs.sqlite3", max_jobs, max_mb, clock=lambda: 100.0)
    store.open()
    return store


def test_everything_survives_closing(tmp_path: Path):
    voice = Turn("I am alto.", codes(9))
    store = opened(tmp_path)
    store.add("a", "Book", SEGMENTS, PLAN, [voice])
    store.set_status("a", JobStatus.RUNNING)
    store.save_segment("a", 0, Turn("One!", codes(50)))
    store.save_failure("a", 1, "it broke")
    store.close()
    job = opened(tmp_path).get("a")
    store = opened(tmp_path)
    assert job.plan == PLAN
    assert (job.status, job.name, job.text) == (JobStatus.QUEUED, "Book", "One. Two. Three.")
    assert (job.num_segments, job.done_segments, job.num_frames) == (3, 1, 50)
    assert job.audio_s == 50 * 320 / 16_000 / 2
    assert [(one.idx, one.text, one.error) for one in job.failed] == [(1, "Two.", "it broke")]
    assert store.next_segment("a") == (2, "Three.")
    [before] = store.spoken_before("a", 2)
    assert before.text == "One!"
    np.testing.assert_array_equal(before.codes, codes(50))
    [reference] = store.references("a")
    np.testing.assert_array_equal(reference.codes, voice.codes)
    assert store.codes_from("a", 1) is None


def test_first_and_last_spoken_stretch_are_what_the_next_continues(tmp_path: Path):
    store = opened(tmp_path)
    store.add("a", "", [str(n) for n in range(5)], PLAN, [])
    for idx in range(4):
        store.save_segment("a", idx, Turn(str(idx), codes(idx + 1)))
    assert [turn.text for turn in store.spoken_before("a", 4)] == ["0", "3"]
    assert [turn.text for turn in store.spoken_before("a", 1)] == ["0"]
    assert store.spoken_before("a", 0) == []


def test_jobs_are_bounded_in_number_and_size(tmp_path: Path):
    store = opened(tmp_path, max_jobs=2, max_mb=1)
    store.add("a", "", ["x"], PLAN, [])
    store.save_segment("a", 0, Turn("x", codes(1)))
    noise = np.random.default_rng(0).integers(0, 2**30, (3, 200_000)).astype(np.int32)
    store.save_segment("a", 0, Turn("x", noise))
    with pytest.raises(JobLimitError, match="MAX_JOBS_MB"):
        store.save_segment("a", 0, Turn("x", codes(1)))
    with pytest.raises(JobLimitError, match="MAX_JOBS_MB"):
        store.add("b", "", ["x"], PLAN, [])
    store.delete("a")  # gives its room back
    store.add("b", "", ["x"], PLAN, [])
    store.add("c", "", ["x"], PLAN, [])
    with pytest.raises(JobLimitError, match=r"MAX_JOBS\b"):
        store.add("d", "", ["x"], PLAN, [])


def test_the_oldest_waiting_job_comes_first(tmp_path: Path):
    store = opened(tmp_path)
    for job_id in ("z", "a"):
        store.add(job_id, "", ["x"], PLAN, [])
    assert store.next_queued() == "z"
    assert [job.id for job in store.all()] == ["a", "z"]
    store.set_status("z", JobStatus.PAUSED)
    assert store.next_queued() == "a"


def test_a_failure_in_the_middle_of_a_change_changes_nothing(tmp_path: Path):
    store = opened(tmp_path)
    store.add("a", "", ["x"], PLAN, [])
    with pytest.raises(JobStorageError):
        store.add("a", "", ["y"], PLAN, [])  # the id is taken
    assert store.get("a").text == "x"
    with pytest.raises(JobNotFoundError):
        store.get("b")


def test_a_closed_or_foreign_database_is_refused(tmp_path: Path):
    store = opened(tmp_path)
    store.close()
    with pytest.raises(ServiceClosedError):
        store.all()
    path = tmp_path / "data" / "jobs.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(JobStorageError, match="newer version"):
        opened(tmp_path)
    path.unlink()
    path.write_bytes(b"no database" * 100)
    with pytest.raises(JobStorageError, match="DATA_DIR"):
        opened(tmp_path)
