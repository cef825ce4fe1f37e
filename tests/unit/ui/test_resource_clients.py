from __future__ import annotations

import pytest

from tests.unit.ui.fake_backend import SAMPLE_RATE, FakeBackend, sine
from ui.client import BackendClient, BackendError, Recording, SpeechForm
from ui.voice_client import VoiceNotes, require_notes
from ui.wav import wav_file

RECORDING = Recording("ada.wav", wav_file(sine(4).tobytes(), SAMPLE_RATE))
NOTES = VoiceNotes(name="Ada & Bo", language="en", tags="calm,low", consent="my own voice")


def test_a_voice_is_added_changed_exported_deleted_and_brought_back(
    backend: FakeBackend, client: BackendClient
):
    added = client.library.add(NOTES, RECORDING, " Hello there. ")
    assert added.voice.tags == ("calm", "low")
    assert added.clinic[0].snr_db == 32.0
    client.library.change(added.voice.name, VoiceNotes(name="Ada", tags="x, y"))
    assert client.library.get("Ada").tags == ("x", "y")
    more = client.library.add_recording("Ada", RECORDING, "And more.")
    assert [one.text for one in more.voice.references] == ["Hello there.", "And more."]
    exported = client.library.export("Ada")
    client.library.delete("Ada")
    assert len(client.voices()) == 2
    assert client.library.restore("ada.fishvoice", exported, "Ada 2") == "Ada 2"
    assert backend.voices[-1]["consent"] == "my own voice"


def test_a_voice_of_the_model_cannot_be_changed(client: BackendClient):
    with pytest.raises(BackendError, match="came with the model"):
        client.library.change("kit", VoiceNotes(name="mine"))


def test_a_voice_without_a_name_or_consent_is_refused_before_it_is_sent():
    with pytest.raises(BackendError, match="a name"):
        require_notes(VoiceNotes(consent="me"))
    with pytest.raises(BackendError, match="Say who allowed"):
        require_notes(VoiceNotes(name="Ada", consent=" "))


def test_a_job_is_watched_to_its_end(backend: FakeBackend, client: BackendClient):
    job = client.jobs.submit(SpeechForm(text="A very long text.", speed=1.5, format="mp3"))
    asked = {"text": "A very long text.", "speed": 1.5, "format": "mp3"}
    assert backend.jobs.asked == [asked]
    assert (job.fraction, job.can_pause, job.has_ended) == (0.0, True, False)
    with client.jobs.events(job.id) as events:
        seen = list(events)
    assert [one.fraction for one in seen] == [0.5, 1.0]
    assert seen[-1].is_done
    assert client.jobs.audio(job.id) == backend.jobs.sound


def test_a_job_is_paused_resumed_and_cancelled(backend: FakeBackend, client: BackendClient):
    backend.jobs.are_held = True
    job = client.jobs.submit(SpeechForm(text="A very long text."))
    assert client.jobs.pause(job.id).can_resume
    assert client.jobs.resume(job.id).can_pause
    assert client.jobs.cancel(job.id).has_ended
    assert [one.id for one in client.jobs.all()] == [job.id]
    assert client.jobs.get(job.id).status == "cancelled"
    with pytest.raises(BackendError, match="not done"):
        client.jobs.audio(job.id)
    assert client.jobs.audio(job.id, partial=True) == backend.jobs.sound
    client.jobs.delete(job.id)
    assert client.jobs.all() == ()
