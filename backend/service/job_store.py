"""Jobs on the disk: one SQLite file in WAL mode. Every change is one transaction.

The codes of a segment are written the moment it has been spoken, so a crash costs one segment.
Sound is not stored: it is made again from the codes, in whatever format is asked for.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import zlib
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from backend.core.errors import (
    JobLimitError,
    JobNotFoundError,
    JobStorageError,
    ServiceClosedError,
)
from backend.core.types import SamplingParams, Turn
from backend.service.codes_file import codes_from_npy, codes_to_npy
from backend.service.job_types import FailedSegment, FileWish, Job, JobPlan, JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SCHEMA_VERSION = 1
BYTES_PER_MIB = 1 << 20
MAX_FAILED_LISTED = 20
_EXCERPT_CHARS = 300
_BUSY_TIMEOUT_S = 10.0

_SCHEMA = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    detail TEXT NOT NULL,
    excerpt TEXT NOT NULL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    plan TEXT NOT NULL
);
CREATE TABLE turns (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    idx INTEGER NOT NULL,
    text TEXT NOT NULL,
    codes BLOB NOT NULL,
    PRIMARY KEY (job_id, idx)
);
CREATE TABLE segments (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    idx INTEGER NOT NULL,
    text TEXT NOT NULL,
    spoken TEXT,
    num_frames INTEGER NOT NULL DEFAULT 0,
    codes BLOB,
    error TEXT,
    PRIMARY KEY (job_id, idx)
);
"""
_JOBS = """
SELECT jobs.*, count(segments.idx) AS num_segments, count(segments.codes) AS done_segments,
    total(length(segments.text)) AS num_chars, total(segments.num_frames) AS num_frames,
    total(CASE WHEN segments.codes IS NULL THEN 0 ELSE length(segments.text) END) AS done_chars
FROM jobs JOIN segments ON segments.job_id = jobs.id
"""
_SEGMENT = "SELECT idx, text, spoken, codes FROM segments WHERE job_id = ?"


class JobStore:
    """Keep jobs. Calls may come from any thread; they wait for each other.

    Life: made -> ``open`` -> any calls -> ``close``.

    Args:
        path: The database; its folder is made when it is opened.
        max_jobs: Jobs that are kept.
        max_mb: Most that the database may hold, in MiB.
        clock: UNIX time.
    """

    def __init__(
        self, path: Path, max_jobs: int, max_mb: int, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._max_jobs = max_jobs
        self._max_mb = max_mb
        self._clock = clock
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the database; jobs that were running when the service stopped are queued again.

        Raises:
            JobStorageError: It cannot be read or written, or comes from a newer version.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None
            )
        except (OSError, sqlite3.Error) as error:
            raise self._broken(error) from error
        with self._use() as db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA auto_vacuum = FULL")  # a deleted job gives its room back
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA foreign_keys = ON")
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version > SCHEMA_VERSION:
                raise JobStorageError(
                    f"{self._path} comes from a newer version of this project; upgrade, or set "
                    "DATA_DIR to another folder"
                )
            if version == 0:
                db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
            db.execute("UPDATE jobs SET status = 'queued' WHERE status = 'running'")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def add(
        self,
        job_id: str,
        name: str,
        segments: Sequence[str],
        plan: JobPlan,
        references: Sequence[Turn],
    ) -> None:
        """Keep a new job, which waits for its turn.

        Args:
            job_id: Not taken yet.
            name: For people.
            segments: The text in stretches, at least one.
            plan: How it sounds.
            references: The voice; empty when the seed draws one.

        Raises:
            JobLimitError: As many jobs or as much data are kept as may be.
            JobStorageError: The disk failed.
        """
        excerpt = " ".join(segments[:8])[:_EXCERPT_CHARS]
        now = self._clock()
        with self._transaction() as db:
            if db.execute("SELECT count(*) FROM jobs").fetchone()[0] >= self._max_jobs:
                raise JobLimitError(
                    f"{self._max_jobs} jobs are kept, and no more may be; delete finished ones "
                    "(DELETE /jobs/ID), or raise MAX_JOBS"
                )
            self._check_room(db)
            db.execute(
                "INSERT INTO jobs VALUES (?, ?, 'queued', '', ?, ?, ?, ?)",
                (job_id, name, excerpt, now, now, json.dumps(asdict(plan))),
            )
            db.executemany(
                "INSERT INTO turns VALUES (?, ?, ?, ?)",
                [(job_id, i, t.text, _pack(t.codes)) for i, t in enumerate(references)],
            )
            db.executemany(
                "INSERT INTO segments (job_id, idx, text) VALUES (?, ?, ?)",
                [(job_id, i, text) for i, text in enumerate(segments)],
            )

    def get(self, job_id: str) -> Job:
        """Give one job.

        Raises:
            JobNotFoundError: No job has this id.
        """
        with self._use() as db:
            row = db.execute(f"{_JOBS} WHERE jobs.id = ? GROUP BY jobs.id", (job_id,)).fetchone()
            if row is None:
                raise JobNotFoundError(f"there is no job {job_id[:64]!r}; GET /jobs lists them")
            return self._job(db, row)

    def all(self) -> tuple[Job, ...]:
        """Give all jobs, newest first."""
        with self._use() as db:
            rows = db.execute(
                f"{_JOBS} GROUP BY jobs.id ORDER BY jobs.created_at DESC, jobs.rowid DESC"
            ).fetchall()
            return tuple(self._job(db, row) for row in rows)

    def references(self, job_id: str) -> tuple[Turn, ...]:
        """Give the voice of a job."""
        with self._use() as db:
            rows = db.execute(
                "SELECT text, codes FROM turns WHERE job_id = ? ORDER BY idx", (job_id,)
            ).fetchall()
        return tuple(Turn(str(row["text"]), _unpack(row["codes"])) for row in rows)

    def next_queued(self) -> str | None:
        """Give the id of the job that has waited longest, or None."""
        with self._use() as db:
            row = db.execute(
                "SELECT id FROM jobs WHERE status = 'queued' ORDER BY created_at, rowid"
            ).fetchone()
            return None if row is None else str(row["id"])

    def set_status(self, job_id: str, status: JobStatus, detail: str = "") -> None:
        """Write down where a job is; one that was deleted meanwhile stays away."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET status = ?, detail = ?, updated_at = ? WHERE id = ?",
                (status.value, detail, self._clock(), job_id),
            )

    def delete(self, job_id: str) -> None:
        """Forget a job and give its room back."""
        with self._transaction() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def forget_failures(self, job_id: str) -> None:
        """Make the stretches that failed wait again."""
        with self._transaction() as db:
            db.execute("UPDATE segments SET error = NULL WHERE job_id = ?", (job_id,))

    def next_segment(self, job_id: str) -> tuple[int, str] | None:
        """Give number and text of the first stretch that was neither spoken nor failed."""
        with self._use() as db:
            row = db.execute(
                f"{_SEGMENT} AND codes IS NULL AND error IS NULL ORDER BY idx LIMIT 1", (job_id,)
            ).fetchone()
            return None if row is None else (int(row["idx"]), str(row["text"]))

    def spoken_before(self, job_id: str, idx: int) -> list[Turn]:
        """Give the first and the last stretch that were spoken before number ``idx``."""
        spoken = f"{_SEGMENT} AND codes IS NOT NULL AND idx < ? ORDER BY idx"
        with self._use() as db:
            first = db.execute(f"{spoken} LIMIT 1", (job_id, idx)).fetchone()
            last = db.execute(f"{spoken} DESC LIMIT 1", (job_id, idx)).fetchone()
        if first is None:
            return []
        rows = [first] if first["idx"] == last["idx"] else [first, last]
        return [Turn(str(row["spoken"]), _unpack(row["codes"])) for row in rows]

    def codes_from(self, job_id: str, idx: int) -> tuple[int, NDArray[np.int32]] | None:
        """Give the first spoken stretch from number ``idx`` on, and its codes ``[K, F]``."""
        with self._use() as db:
            row = db.execute(
                f"{_SEGMENT} AND codes IS NOT NULL AND idx >= ? ORDER BY idx LIMIT 1",
                (job_id, idx),
            ).fetchone()
        return None if row is None else (int(row["idx"]), _unpack(row["codes"]))

    def save_segment(self, job_id: str, idx: int, turn: Turn) -> None:
        """Keep a stretch that was spoken.

        Raises:
            JobLimitError: There is no room for more.
        """
        with self._transaction() as db:
            self._check_room(db)
            db.execute(
                "UPDATE segments SET spoken = ?, num_frames = ?, codes = ?, error = NULL"
                " WHERE job_id = ? AND idx = ?",
                (turn.text, turn.codes.shape[1], _pack(turn.codes), job_id, idx),
            )
            self._touch(db, job_id)

    def save_failure(self, job_id: str, idx: int, error: str) -> None:
        """Write down why a stretch could not be spoken."""
        with self._transaction() as db:
            db.execute(
                "UPDATE segments SET error = ? WHERE job_id = ? AND idx = ?", (error, job_id, idx)
            )
            self._touch(db, job_id)

    def _touch(self, db: sqlite3.Connection, job_id: str) -> None:
        db.execute("UPDATE jobs SET updated_at = ? WHERE id = ?", (self._clock(), job_id))

    def _check_room(self, db: sqlite3.Connection) -> None:
        pages = int(db.execute("PRAGMA page_count").fetchone()[0])
        size = pages * int(db.execute("PRAGMA page_size").fetchone()[0])
        if size > self._max_mb * BYTES_PER_MIB:
            raise JobLimitError(
                f"the jobs take more than {self._max_mb} MiB; delete some (DELETE /jobs/ID), or "
                "raise MAX_JOBS_MB"
            )

    def _job(self, db: sqlite3.Connection, row: sqlite3.Row) -> Job:
        failed = db.execute(
            "SELECT idx, text, error FROM segments WHERE job_id = ? AND error IS NOT NULL"
            " ORDER BY idx LIMIT ?",
            (row["id"], MAX_FAILED_LISTED),
        ).fetchall()
        return Job(
            id=row["id"],
            name=row["name"],
            status=JobStatus(row["status"]),
            detail=row["detail"],
            text=row["excerpt"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            num_chars=int(row["num_chars"]),
            num_segments=row["num_segments"],
            done_segments=row["done_segments"],
            done_chars=int(row["done_chars"]),
            num_frames=int(row["num_frames"]),
            plan=_plan(row["plan"]),
            failed=tuple(FailedSegment(f["idx"], f["text"], f["error"]) for f in failed),
        )

    @contextmanager
    def _use(self) -> Generator[sqlite3.Connection]:
        with self._lock:
            if self._connection is None:
                raise ServiceClosedError("the service is starting or stopping; try again later")
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise self._broken(error) from error

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._use() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _broken(self, error: Exception) -> JobStorageError:
        return JobStorageError(
            f"{self._path} cannot be used ({error}); check DATA_DIR, its permissions and the disk"
        )


def _plan(text: str) -> JobPlan:
    facts: dict[str, Any] = json.loads(text)
    facts["sampling"] = SamplingParams(**facts["sampling"])
    facts["file"] = FileWish(**facts["file"])
    facts["warnings"] = tuple(facts["warnings"])
    return JobPlan(**facts)


def _pack(codes: NDArray[np.int32]) -> bytes:
    return zlib.compress(codes_to_npy(codes))


def _unpack(content: bytes) -> NDArray[np.int32]:
    return codes_from_npy(zlib.decompress(content))
