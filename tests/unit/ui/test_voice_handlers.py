from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.ui.fake_backend import SAMPLE_RATE, FakeBackend, sine
from tests.unit.ui.server import closed_port
from ui.client import BackendClient
from ui.files import FileShelf
from ui.gradio_voice_handlers import VoiceHandlers
from ui.wav import wav_file

NEW: dict[str, Any] = {
    "recording": None, "transcript": " my words ", "name": " Ada ", "language": "en",
    "description": "calm", "consent": "my own voice", "speaking": "kit", "key": "",
}  # fmt: skip


@pytest.fixture
def does(client: BackendClient, tmp_path: Path) -> VoiceHandlers:
    return VoiceHandlers(client, FileShelf(tmp_path / "files"))


@pytest.fixture
def recording(tmp_path: Path) -> str:
    return recorded(tmp_path, seconds=4)


def recorded(folder: Path, seconds: float) -> str:
    file = folder / f"recording-{seconds}.wav"
    file.write_bytes(wav_file(sine(seconds).tobytes(), SAMPLE_RATE))
    return str(file)


def add(does: VoiceHandlers, recording: str | None, **changes: Any) -> tuple[str, Any, Any]:
    return does.add(**{**NEW, "recording": recording, **changes})


def offered_file(html: str) -> Path:
    return Path(html.split("gradio_api/file=")[1].split('"')[0])


def test_a_recording_becomes_a_voice_and_is_reported_on(
    does: VoiceHandlers, backend: FakeBackend, recording: str
):
    report, chosen, speak_choice = add(does, recording)
    assert "Ada is added" in report
    assert "32 dB" in report
    assert (chosen["value"], speak_choice["value"]) == ("Ada", "kit")
    added = backend.voices[-1]
    assert (added["name"], added["text"], added["consent"]) == ("Ada", "my words", "my own voice")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": " "}, "Give the voice a name"),
        ({"consent": " "}, "Say who allowed"),
        ({"recording": None}, "Choose a recording"),
        ({"name": "kit"}, "already"),
    ],
)
def test_what_is_missing_for_a_voice_is_said(
    does: VoiceHandlers, backend: FakeBackend, recording: str, changes: dict[str, Any], words: str
):
    report, *_ = does.add(**{**NEW, "recording": recording, **changes})
    assert words in report
    assert 'role="alert"' in report
    assert len(backend.voices) == 2


def test_the_clinic_tells_before_anything_is_kept(
    does: VoiceHandlers, backend: FakeBackend, tmp_path: Path
):
    assert "It is too short" in does.check(recorded(tmp_path, 0.5), "")
    assert "It is short" in does.check(recorded(tmp_path, 2), "")
    assert "is fine" in does.check(recorded(tmp_path, 5), "")
    assert "Choose a recording" in does.check(None, "")
    assert len(backend.voices) == 2


def test_a_voice_is_shown_and_only_added_ones_can_be_changed(does: VoiceHandlers, recording: str):
    shown = does.show("kit", "")
    assert "came with the model" in shown.card or "A clear, low voice" in shown.card
    assert not shown.save["interactive"]
    add(does, recording)
    shown = does.show("Ada", "")
    assert "my own voice" in shown.card
    assert "my words" in shown.card
    assert (shown.name, shown.description) == ("Ada", "calm")
    assert shown.delete["interactive"]


def test_a_new_name_follows_to_the_speak_tab_when_that_voice_was_chosen(
    does: VoiceHandlers, backend: FakeBackend, recording: str
):
    add(does, recording)
    view = does.save("Ada", "Ada", "Ada L.", "en", "calm", "low, slow", "")
    assert (view.chosen["value"], view.speak_choice["value"]) == ("Ada L.", "Ada L.")
    assert backend.voices[-1]["tags"] == ["low", "slow"]
    view = does.save("Ada L.", "kit", "Ada", "en", "calm", "", "")
    assert (view.chosen["value"], view.speak_choice["value"]) == ("Ada", "kit")


def test_deleting_needs_a_tick(does: VoiceHandlers, backend: FakeBackend, recording: str):
    add(does, recording)
    assert "Tick the box" in does.delete("Ada", "kit", False, "").message
    assert len(backend.voices) == 3
    view = does.delete("Ada", "Ada", True, "")
    assert "is deleted" in view.message
    assert view.speak_choice["value"] == "kit"
    assert len(backend.voices) == 2


def test_a_voice_can_be_heard(does: VoiceHandlers, backend: FakeBackend):
    heard = does.preview("kit", "")
    assert "<audio" in heard
    assert offered_file(heard).read_bytes() == backend.library.preview_sound


def test_an_exported_voice_can_be_brought_back(
    does: VoiceHandlers, backend: FakeBackend, recording: str
):
    add(does, recording)
    file = offered_file(does.export("Ada", ""))
    assert file.name == "Ada.fishvoice"
    does.delete("Ada", "kit", True, "")
    view = does.restore(str(file), "kit", "")
    assert "Ada is imported" in view.message
    assert backend.voices[-1]["name"] == "Ada"
    assert "already" in does.restore(str(file), "kit", "").message


def test_without_a_choice_or_a_backend_every_button_says_why(does: VoiceHandlers, tmp_path: Path):
    assert "Choose a voice" in does.preview(None, "")
    assert "Choose a voice" in does.delete(None, None, True, "").message
    assert "Choose a file" in does.restore(None, None, "").message
    assert "No voice is chosen" in does.show(None, "").card
    assert "there is no voice" in does.show("gone", "").message
    with BackendClient(f"http://127.0.0.1:{closed_port()}") as client:
        alone = VoiceHandlers(client, FileShelf(tmp_path))
        assert "start.py" in alone.list_again(None, None, "").message
        assert "start.py" in alone.export("kit", "")


def test_the_oldest_files_are_deleted_when_there_are_too_many(tmp_path: Path):
    shelf = FileShelf(tmp_path, max_files=2)
    files = [shelf.put("a.wav", b"x") for _ in range(3)]
    assert [file.exists() for file in files] == [False, True, True]
    assert not files[0].parent.exists()
