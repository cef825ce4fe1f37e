"""The Streamlit page's Jobs tab: long texts that the backend speaks in the background."""

# Streamlit's own types are partial.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from ui import cards
from ui.connection import BackendError
from ui.speech import MEDIA_TYPES

if TYPE_CHECKING:
    from ui.client import BackendClient
    from ui.job_replies import Job
    from ui.speech import SpeechForm
    from ui.streamlit_state import Backend, BackendState

LIVE_INTERVAL_S = 2.0
MAX_SHOWN = 20


def jobs_tab(
    client: BackendClient, backend: Backend, state: BackendState, form: SpeechForm
) -> None:
    """Draw the form for a new job and the list of all."""
    st.caption(
        "A job speaks a long text in the background, with the voice and the settings of the "
        "sidebar. It goes on when this page is closed."
    )
    typed = st.text_area("Long text", height=160, key="job_text")
    given = st.file_uploader("Or a text file", type=["txt", "md"], key="job_file")
    name = st.text_input("Name of the job", key="job_name").strip()
    if st.button("Start the job", type="primary", disabled=not state.is_ready, key="start_job"):
        _start(client, form, given.getvalue() if given else typed.encode(), name)
    _list_jobs(backend)


def _start(client: BackendClient, form: SpeechForm, content: bytes, name: str) -> None:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        st.error("The file is not UTF-8 text: save it as UTF-8 and choose it again.")
        return
    if not text.strip():
        st.error("Type a text, or choose a file.")
        return
    try:
        job = client.jobs.submit(replace(form, text=text), name)
    except BackendError as error:
        st.error(error.message)
    else:
        st.success(f"Job {job.id[:8]} is on its way.")


@st.fragment(run_every=LIVE_INTERVAL_S)
def _list_jobs(backend: Backend) -> None:
    try:
        with backend.open() as client:
            jobs = client.jobs.all()
            if not jobs:
                st.info("No jobs yet.")
            for job in jobs[:MAX_SHOWN]:
                _show(client, job)
    except BackendError as error:
        st.error(error.message)


def _show(client: BackendClient, job: Job) -> None:
    with st.container(border=True):
        facts, tools = st.columns([3, 2])
        facts.markdown(f"**{job.title}**")
        spoken = cards.seconds(job.audio_duration_s)
        facts.caption(f"{job.status} · {job.voice or 'own voice'} · {spoken} so far")
        for words in filter(None, (job.error, *job.warnings)):
            facts.caption(words)
        st.progress(job.fraction, job.progress_words)
        with tools:
            _tools(client, job)


def _tools(client: BackendClient, job: Job) -> None:
    buttons = st.columns(2)
    if job.can_pause and buttons[0].button("Pause", key=f"pause_{job.id}"):
        client.jobs.pause(job.id)
        st.rerun()
    if job.can_resume and buttons[0].button("Resume", key=f"resume_{job.id}"):
        client.jobs.resume(job.id)
        st.rerun()
    if not job.has_ended and buttons[1].button("Cancel", key=f"cancel_{job.id}"):
        client.jobs.cancel(job.id)
        st.rerun()
    if job.has_ended and buttons[1].button("Delete", key=f"delete_{job.id}"):
        client.jobs.delete(job.id)
        st.rerun()
    if job.has_sound:
        _offer(client, job)


def _offer(client: BackendClient, job: Job) -> None:
    """Fetch the file only when somebody wants it: the list is drawn again and again."""
    key = f"audio_{job.id}_{job.done_segments}"
    if key not in st.session_state:
        if not st.button("Fetch the sound", key=f"fetch_{job.id}"):
            return
        st.session_state[key] = client.jobs.audio(job.id, partial=not job.is_done)
    media_type = MEDIA_TYPES.get(job.format, "application/octet-stream")
    st.audio(st.session_state[key], format=media_type)
    st.download_button(
        f"Download {job.format.upper()}",
        st.session_state[key],
        file_name=f"job-{job.id[:8]}.{job.format}",
        mime=media_type,
        on_click="ignore",
        key=f"download_{job.id}",
    )
