"""Speak one job, stretch by stretch, and store each the moment it is there."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from backend.core.errors import (
    EngineUnavailableError,
    GenerationError,
    JobLimitError,
    JobStateError,
    JobStorageError,
    ServiceClosedError,
    TTSError,
)
from backend.service.job_types import JobStatus
from backend.service.ledger import SpeechLedger
from backend.service.narration import NO_SOUND, Narration

if TYPE_CHECKING:
    from backend.core.types import EngineInfo, Turn
    from backend.service.cpu_pool import CpuPool
    from backend.service.job_store import JobStore
    from backend.service.job_types import Job
    from backend.service.synthesis import SynthesisService

logger = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 3
"""After so many the fault is not the text's."""
MAX_YIELD_S = 30.0
"""Longest that a job lets others go first; then it queues up like everybody."""
_LOOK_AGAIN_S = 0.2
_ENGINE_RETRY_S = 5.0


class Tell(Protocol):
    """Hear that a job has changed, and store its status where one is given."""

    async def __call__(self, job_id: str, status: JobStatus | None, detail: str = "") -> None:
        """Take the news."""
        ...


class JobRunner:
    """Speak jobs; several ``run`` may be under way. Confined to the event loop.

    Args:
        service: Speaks.
        store: Where jobs are.
        pool: Threads for what blocks.
        tell: Told of every change.
    """

    def __init__(
        self, service: SynthesisService, store: JobStore, pool: CpuPool, tell: Tell
    ) -> None:
        self._service = service
        self._store = store
        self._pool = pool
        self._tell = tell

    async def run(self, job_id: str) -> None:
        """Speak a job to its end, whatever end that is."""
        try:
            status, detail = await self._speak_all(job_id)
        except (JobLimitError, JobStateError) as error:
            status, detail = JobStatus.FAILED, str(error)
        except ServiceClosedError:
            return  # it goes on after the next start
        except JobStorageError as error:
            logger.error("job %s: %s", job_id, error)  # noqa: TRY400 - the message says it all
            return
        logger.info("job %s: %s %s", job_id, status.value, detail)
        await self._tell(job_id, status, detail)

    async def _speak_all(self, job_id: str) -> tuple[JobStatus, str]:
        job = await self._pool.run(self._store.get, job_id)
        require_same_model(job, self._info())
        narration = Narration(
            request_id=f"job-{job_id[:8]}",
            segments=(),
            references=await self._pool.run(self._store.references, job_id),
            sampling=job.plan.sampling,
            stream=False,
            is_patient=True,
        )
        failures = 0
        while (segment := await self._pool.run(self._store.next_segment, job_id)) is not None:
            await self._let_others_go_first()
            idx, text = segment
            try:
                turn = await self._speak(narration, job_id, idx, text)
            except EngineUnavailableError as error:
                if isinstance(error, ServiceClosedError):
                    raise
                await self._tell(job_id, JobStatus.RUNNING, f"waits for the engine: {error}")
                await asyncio.sleep(_ENGINE_RETRY_S)
                continue
            except TTSError as error:
                failures += 1
                logger.warning("job %s: segment %d failed: %s", job_id, idx, error)
                await self._pool.run(self._store.save_failure, job_id, idx, str(error))
            else:
                failures = 0
                await self._pool.run(self._store.save_segment, job_id, idx, turn)
            await self._tell(job_id, None)
            if failures == MAX_FAILURES_IN_A_ROW:
                break
        job = await self._pool.run(self._store.get, job_id)
        missing = job.num_segments - job.done_segments
        if not missing:
            return JobStatus.DONE, ""
        return JobStatus.FAILED, (
            f"{missing} of {job.num_segments} stretches are missing; POST /jobs/{job_id}/resume "
            "tries them again"
        )

    async def _speak(self, narration: Narration, job_id: str, idx: int, text: str) -> Turn:
        spoken = await self._pool.run(self._store.spoken_before, job_id, idx)
        num_before = len(spoken)
        ledger = SpeechLedger(narration.request_id)
        chunks = self._service.narrator.speak_one(
            narration, idx, text, spoken, self._info(), ledger
        )
        async with aclosing(chunks):
            async for _ in chunks:
                pass
        if len(spoken) == num_before:
            raise GenerationError(NO_SOUND)
        return spoken[-1]

    async def _let_others_go_first(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MAX_YIELD_S
        while loop.time() < deadline:
            status = self._service.status()
            if status.num_waiting == 0 and status.num_running < max(1, status.max_running):
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _info(self) -> EngineInfo:
        info = self._service.info
        if info is None:
            raise ServiceClosedError("the service is starting or stopping")
        return info


def require_same_model(job: Job, info: EngineInfo) -> None:
    """Refuse to go on, or to decode, with another model than the job was begun with.

    Raises:
        JobStateError: It is another one.
    """
    if job.plan.revision != info.revision:
        raise JobStateError(
            f"the job was begun with the model {job.plan.model}, and {info.model} or another "
            f"version of it is loaded; start the service with MODEL={job.plan.model} for this job"
        )
