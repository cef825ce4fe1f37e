"""Long texts that the backend speaks in the background."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ui.connection import parsed, segment
from ui.job_replies import Job, JobsReply, events_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ui.connection import Connection
    from ui.speech import SpeechForm


class JobClient:
    """Start, watch and steer jobs.

    Args:
        connection: To the backend.
    """

    def __init__(self, connection: Connection) -> None:
        self._to = connection

    def submit(self, form: SpeechForm, name: str = "") -> Job:
        """Start a job; the name is for people."""
        further = {"name": name} if name else {}
        if form.recording is None:
            response = self._to.ask("POST", "/jobs", json={**form.values(), **further})
        else:
            response = self._to.ask("POST", "/jobs", **form.body(**further))
        return parsed(Job, response)

    def all(self) -> tuple[Job, ...]:
        """Give all jobs, newest first."""
        return self._to.get(JobsReply, "/jobs").jobs

    def get(self, job_id: str) -> Job:
        """Give one job."""
        return self._to.get(Job, f"/jobs/{segment(job_id)}")

    @contextmanager
    def events(self, job_id: str) -> Generator[Iterator[Job], None, None]:
        """Watch a job: gives it anew whenever something has changed, until it has ended."""
        with self._to.stream("GET", f"/jobs/{segment(job_id)}/events") as response:
            yield events_of(response.iter_lines())

    def pause(self, job_id: str) -> Job:
        """Stop; the stretch that is being spoken will be begun again."""
        return self._steer(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Go on."""
        return self._steer(job_id, "resume")

    def cancel(self, job_id: str) -> Job:
        """End it for good."""
        return self._steer(job_id, "cancel")

    def delete(self, job_id: str) -> None:
        """Forget it and everything that was spoken."""
        self._to.ask("DELETE", f"/jobs/{segment(job_id)}")

    def audio(self, job_id: str, *, partial: bool = False) -> bytes:
        """Give the file.

        Args:
            job_id: Of the job.
            partial: Give what there is, although the job is not done.
        """
        params = {"partial": str(partial).lower()}
        return self._to.ask("GET", f"/jobs/{segment(job_id)}/audio", params=params).content

    def _steer(self, job_id: str, action: str) -> Job:
        return parsed(Job, self._to.ask("POST", f"/jobs/{segment(job_id)}/{action}"))
