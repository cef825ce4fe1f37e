"""Long texts that are spoken in the background and kept over a restart.

A job is a text cut into stretches, a voice and a seed, all stored. The runner speaks one stretch
after another, each as the continuation of the last, and stores its codes. It stays behind
interactive requests: it takes few slots, and begins a stretch only when nobody waits.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from backend.core.errors import (
    EngineUnavailableError,
    JobNotFoundError,
    JobStateError,
)
from backend.service.files import plan_file
from backend.service.job_runner import JobRunner, require_same_model
from backend.service.job_store import JobStore
from backend.service.job_types import ENDED, FileWish, Job, JobPlan, JobStatus
from backend.service.ledger import SpeechLedger
from backend.service.requests import SpeechRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import numpy as np
    from numpy.typing import NDArray

    from backend.core.settings import Settings
    from backend.core.types import EngineInfo
    from backend.service.cpu_pool import CpuPool
    from backend.service.requests import Speech
    from backend.service.synthesis import SynthesisService

logger = logging.getLogger(__name__)

DATABASE = "jobs.sqlite3"
KEEP_ALIVE_S = 15.0


class JobService:
    """Keep and run jobs. Confined to the event loop.

    Life: made -> ``open`` -> ``start`` once the service can speak -> ``close`` before the service.
    Jobs can be looked at as soon as it is open.

    Args:
        service: Speaks.
        settings: Where jobs are stored, how many, how long.
        pool: Threads for what blocks.
    """

    def __init__(self, service: SynthesisService, settings: Settings, pool: CpuPool) -> None:
        self._service = service
        self._settings = settings
        self._pool = pool
        path = settings.data_dir / DATABASE
        self._store = JobStore(path, settings.max_jobs, settings.max_jobs_mb)
        self._runner = JobRunner(service, self._store, pool, self._set)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._steering = asyncio.Lock()
        self._refilling: asyncio.Task[None] | None = None
        self._is_started = False
        self._is_closed = False

    async def open(self) -> None:
        """Read the stored jobs.

        Raises:
            JobStorageError: They cannot be read.
        """
        await self._pool.run(self._store.open)

    async def start(self) -> None:
        """Begin to run what waits."""
        self._is_started = True
        async with self._steering:
            await self._fill()

    async def close(self) -> None:
        """Stop; jobs that run go on after the next start."""
        self._is_closed = True
        async with self._steering:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
        for events in self._watchers.values():
            for event in events:
                event.set()
        await self._pool.run(self._store.close)

    async def create(self, request: SpeechRequest, name: str = "") -> Job:
        """Decide everything about a job, store it, and let it wait for its turn.

        Raises:
            InvalidInputError: It cannot be spoken as it is; the message says why.
            VoiceNotFoundError: No voice has this name.
            EngineUnavailableError: The engine is not there.
            JobLimitError: No more jobs are kept.
            JobStorageError: The disk failed.
        """
        ledger = SpeechLedger(request.request_id)
        info = self._require_info()
        plan_file(request, info.sample_rate)
        narration = await self._service.prepare(request, ledger, is_job=True)
        assert isinstance(narration.segments, list)  # no text is written live here
        plan = JobPlan(
            model=info.model,
            revision=info.revision,
            sample_rate=info.sample_rate,
            frame_length=info.frame_length,
            voice=ledger.voice,
            sampling=narration.sampling,
            file=FileWish(
                request.format,
                request.sample_rate,
                request.speed,
                request.volume_db,
                request.normalize,
                request.trim_silence,
            ),
            warnings=tuple(ledger.warnings),
        )
        job_id = secrets.token_hex(16)
        await self._pool.run(
            self._store.add, job_id, name, narration.segments, plan, narration.references
        )
        logger.info("job %s: %d segments", job_id, len(narration.segments))
        async with self._steering:
            await self._fill()
        return await self.get(job_id)

    async def all(self) -> tuple[Job, ...]:
        """Give all jobs, newest first."""
        return await self._pool.run(self._store.all)

    async def get(self, job_id: str) -> Job:
        """Give one job.

        Raises:
            JobNotFoundError: No job has this id.
        """
        return await self._pool.run(self._store.get, job_id)

    async def pause(self, job_id: str) -> Job:
        """Stop a job at once; the stretch that is being spoken will be begun again.

        Raises:
            JobNotFoundError: No job has this id.
            JobStateError: It neither runs nor waits.
        """
        return await self._stop(job_id, JobStatus.PAUSED)

    async def cancel(self, job_id: str) -> Job:
        """End a job for good; what was spoken can still be fetched.

        Raises:
            JobNotFoundError: No job has this id.
            JobStateError: It has ended.
        """
        return await self._stop(job_id, JobStatus.CANCELLED)

    async def resume(self, job_id: str) -> Job:
        """Let a paused job go on, or try the missing stretches of a failed one again.

        Raises:
            JobNotFoundError: No job has this id.
            JobStateError: It is neither paused nor failed.
        """
        async with self._steering:
            job = await self.get(job_id)
            if job.status not in (JobStatus.PAUSED, JobStatus.FAILED):
                raise JobStateError(
                    f"the job is {job.status.value}; only paused and failed ones can be resumed"
                )
            await self._pool.run(self._store.forget_failures, job_id)
            await self._set(job_id, JobStatus.QUEUED)
            await self._fill()
        return await self.get(job_id)

    async def delete(self, job_id: str) -> None:
        """Forget a job, running or not.

        Raises:
            JobNotFoundError: No job has this id.
        """
        async with self._steering:
            await self.get(job_id)
            await self._end_task(job_id)
            await self._pool.run(self._store.delete, job_id)
            self._publish(job_id)
            await self._fill()

    async def watch(self, job_id: str) -> AsyncGenerator[Job | None, None]:
        """Yield a job now and whenever something has changed, until it has ended or is deleted.

        None is yielded where nothing has changed for ``KEEP_ALIVE_S``.

        Raises:
            JobNotFoundError: No job has this id.
        """
        job = await self.get(job_id)
        changed = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(changed)
        try:
            while True:
                changed.clear()
                try:
                    job = await self.get(job_id)
                except JobNotFoundError:
                    return
                yield job
                if job.status in ENDED:
                    return
                while not await _is_set(changed, KEEP_ALIVE_S):
                    yield None
                if self._is_closed:
                    return
        finally:
            watchers = self._watchers[job_id]
            watchers.discard(changed)
            if not watchers:
                del self._watchers[job_id]

    async def audio(
        self,
        job_id: str,
        request_id: str,
        *,
        format_name: str | None = None,
        sample_rate: int | None = None,
        partial: bool = False,
    ) -> Speech:
        """Begin to give a job's sound; no model runs, only its codec.

        Args:
            job_id: Whose sound.
            request_id: Names the download.
            format_name: Another format than the job asked for.
            sample_rate: Another rate, in Hz.
            partial: Give what there is so far.

        Raises:
            JobNotFoundError: No job has this id.
            JobStateError: It is not done (without ``partial``), or another model is loaded.
            UnsupportedFormatError: The file is not offered.
        """
        job, info = await self.get(job_id), self._require_info()
        if job.done_segments == 0 or (job.status is not JobStatus.DONE and not partial):
            raise JobStateError(
                f"the job is {job.status.value}, {job.done_segments} of {job.num_segments} "
                "stretches are spoken; wait until it is done"
                + (", or ask for what there is with ?partial=true" if job.done_segments else "")
            )
        require_same_model(job, info)
        file = job.plan.file.changed(format_name, sample_rate)
        request = SpeechRequest(
            request_id=request_id,
            text="",
            voice=job.plan.voice,
            seed=job.plan.sampling.seed,
            format=file.format,
            sample_rate=file.sample_rate,
            speed=file.speed,
            volume_db=file.volume_db,
            normalize=file.normalize,
            trim_silence=file.trim_silence,
        )
        return await self._service.replay(request, self._codes(job_id))

    async def _codes(self, job_id: str) -> AsyncGenerator[NDArray[np.int32], None]:
        idx = 0
        while (found := await self._pool.run(self._store.codes_from, job_id, idx)) is not None:
            idx = found[0] + 1
            yield found[1]
        await self.get(job_id)  # one that was deleted meanwhile must not look complete

    async def _stop(self, job_id: str, status: JobStatus) -> Job:
        allowed = {JobStatus.QUEUED, JobStatus.RUNNING}
        if status is JobStatus.CANCELLED:
            allowed.add(JobStatus.PAUSED)
        async with self._steering:
            await self.get(job_id)
            await self._end_task(job_id)
            job = await self.get(job_id)
            if job.status not in allowed:
                await self._fill()
                wanted = " or ".join(sorted(one.value for one in allowed))
                raise JobStateError(f"the job is {job.status.value}; it would have to be {wanted}")
            await self._set(job_id, status)
            await self._fill()
        return await self.get(job_id)

    async def _end_task(self, job_id: str) -> None:
        task = self._running.pop(job_id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _fill(self) -> None:
        """Start jobs while there is room; ``_steering`` is held."""
        while (
            self._is_started
            and not self._is_closed
            and len(self._running) < self._settings.max_running_jobs
        ):
            job_id = await self._pool.run(self._store.next_queued)
            if job_id is None:
                return
            await self._set(job_id, JobStatus.RUNNING)
            task = asyncio.create_task(self._runner.run(job_id))
            self._running[job_id] = task
            task.add_done_callback(lambda task, job_id=job_id: self._ended(job_id, task))

    def _ended(self, job_id: str, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._is_closed:
            return
        if (error := task.exception()) is not None:
            logger.error("job %s: the runner ended", job_id, exc_info=error)
        self._running.pop(job_id, None)
        self._refilling = asyncio.create_task(self.start())

    async def _set(self, job_id: str, status: JobStatus | None, detail: str = "") -> None:
        if status is not None:
            await self._pool.run(self._store.set_status, job_id, status, detail)
        self._publish(job_id)

    def _publish(self, job_id: str) -> None:
        for event in self._watchers.get(job_id, ()):
            event.set()

    def _require_info(self) -> EngineInfo:
        info = self._service.info
        if info is None:
            raise EngineUnavailableError(
                "the model is not loaded (yet); GET /health tells when it is"
            )
        return info


async def _is_set(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
