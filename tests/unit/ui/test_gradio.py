from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile

from tests.unit.ui.fake_backend import FakeBackend, sine
from tests.unit.ui.fake_voices import voice
from tests.unit.ui.server import closed_port
from ui import gradio_handlers
from ui.client import BackendClient
from ui.files import FileShelf
from ui.gradio_app import served_page
from ui.gradio_backend import BackendHandlers
from ui.gradio_handlers import SpeakHandlers
from ui.gradio_page import build_page
from ui.gradio_views import SpeakView
from ui.settings import UiSettings

CONTROLS: dict[str, Any] = {
    "text": "one two three",
    "voice": "sally",
    "recording": None,
    "transcript": None,
    "preset": "model",
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "repetition_penalty": 1.3,
    "max_new_tokens": 512,
    "seed": "",
    "file_format": "wav",
    "language": "",
    "speed": 1,
    "volume": 0,
    "sample_rate": 0,
    "normalize": False,
    "trim_silence": False,
    "api_key": "",
}


@pytest.fixture
def does(client: BackendClient, tmp_path: Path) -> SpeakHandlers:
    return SpeakHandlers(client, FileShelf(tmp_path / "files"))


@pytest.fixture
def looks(client: BackendClient) -> BackendHandlers:
    return BackendHandlers(client)


def speak(does: SpeakHandlers, **changes: Any) -> list[SpeakView]:
    return list(does.speak(*{**CONTROLS, **changes}.values()))


def pulled(does: SpeakHandlers, views: list[SpeakView]) -> bytes:
    live = json.loads(views[1].player)
    got = b""
    while True:
        answer = does.pull([live["take"], len(got)])
        got += base64.b64decode(answer["pcm"])
        if answer["isLast"]:
            return got


def test_a_take_goes_from_waiting_to_live_to_done(does: SpeakHandlers):
    views = speak(does)
    assert json.loads(views[0].player) == {"state": "waiting"}
    live = json.loads(views[1].player)
    assert (live["state"], live["rate"]) == ("live", 24_000)
    assert "Done: 1.2 s" in views[-1].message
    assert "First sound" in views[-1].figures
    assert views[-1].speak_button["visible"]
    assert not views[-1].stop_button["visible"]


def test_the_player_pulls_the_very_samples(does: SpeakHandlers):
    assert pulled(does, speak(does)) == sine(1.2).tobytes()


def test_the_player_can_pull_before_the_rest_is_made(does: SpeakHandlers, backend: FakeBackend):
    backend.gate.clear()
    views = does.speak(*CONTROLS.values())
    next(views)
    live = json.loads(next(views).player)
    backend.gate.set()
    next(views)
    answer = does.pull([live["take"], 0])
    assert len(base64.b64decode(answer["pcm"])) > 0
    views.close()


@pytest.mark.parametrize("kind", ["wav", "mp3", "flac", "opus"])
def test_a_whole_file_of_the_chosen_format_is_offered(does: SpeakHandlers, kind: str):
    last = speak(does, file_format=kind)[-1]
    done = json.loads(last.player)
    assert f'href="{done["file"]}"' in last.download
    file = Path(done["file"].removeprefix("gradio_api/file="))
    assert file.suffix == f".{kind}"
    samples, rate = soundfile.read(io.BytesIO(file.read_bytes()))
    assert len(samples) / rate == pytest.approx(1.2, abs=0.1)


def test_the_model_keeps_its_own_sampling_unless_the_visitor_chooses(
    does: SpeakHandlers, backend: FakeBackend
):
    speak(does)
    assert "temperature" not in backend.requests[-1]
    speak(does, preset="custom", seed="7")
    sent = backend.requests[-1]
    assert (sent["temperature"], sent["top_k"], sent["max_new_tokens"]) == ("0.7", "40", "512")
    assert (sent["repetition_penalty"], sent["top_p"], sent["seed"]) == ("1.3", "0.9", "7")


def test_how_it_is_to_sound_is_sent_when_it_differs_from_as_spoken(
    does: SpeakHandlers, backend: FakeBackend
):
    speak(does)
    sound = {"speed", "volume", "sample_rate", "normalize", "trim_silence", "language"}
    assert not sound.intersection(backend.requests[-1])
    speak(
        does,
        speed=1.5,
        volume=-3,
        sample_rate=16000,
        normalize=True,
        trim_silence=True,
        language="de",
    )
    sent = {name: backend.requests[-1][name] for name in sound}
    assert sent == {
        "speed": "1.5", "volume": "-3", "sample_rate": "16000", "normalize": "true",
        "trim_silence": "true", "language": "de",
    }  # fmt: skip


def test_the_player_is_told_what_its_list_of_takes_shows(does: SpeakHandlers):
    views = speak(does)
    done = json.loads(views[-1].player)
    assert done["take"] == json.loads(views[1].player)["take"]
    assert (done["state"], done["text"], done["voice"], done["seed"]) == (
        "done",
        "one two three",
        "sally",
        42,
    )
    assert "first sound 84 ms" in done["figures"]


def test_while_it_speaks_the_page_shows_how_far_and_how_fast(
    does: SpeakHandlers, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gradio_handlers, "PROGRESS_INTERVAL_S", 0.0)
    views = speak(does)
    speaking = [view for view in views if "so far" in str(view.message)]
    assert len(speaking) > 2
    assert "<progress" in speaking[-1].message
    assert "Elapsed" in speaking[-1].figures


def test_a_visitors_key_is_sent(does: SpeakHandlers, backend: FakeBackend):
    backend.api_key = "a-secret-key"
    assert "asks for an API key" in speak(does)[-1].message
    assert "Done" in speak(does, api_key="a-secret-key ")[-1].message


def test_a_recording_and_its_words_are_sent(
    does: SpeakHandlers, backend: FakeBackend, tmp_path: Path
):
    recording = tmp_path / "me.wav"
    recording.write_bytes(b"RIFF")
    speak(does, recording=str(recording), transcript=" my words ")
    assert backend.requests[-1]["speaker_file"] == ("me.wav", b"RIFF")
    assert backend.requests[-1]["prompt_text"] == "my words"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": "  "}, "Type something"),
        ({"text": None}, "Type something"),
        ({"seed": "-1"}, "whole number"),
        ({"seed": "4294967296"}, "whole number"),
        ({"seed": "seven"}, "whole number"),
        ({"voice": "nobody"}, "there is no voice"),
    ],
)
def test_what_cannot_be_spoken_is_said_and_speak_is_offered_again(
    does: SpeakHandlers, changes: dict[str, Any], words: str
):
    last = speak(does, **changes)[-1]
    assert words in last.message
    assert 'role="alert"' in last.message
    assert last.speak_button["visible"]


def test_sound_that_came_before_a_break_stays_in_the_player(
    does: SpeakHandlers, backend: FakeBackend
):
    backend.breaks_after = 2
    views = speak(does)
    assert "broke off" in views[-1].message
    assert 0 < len(pulled(does, views)) < len(sine(1.2).tobytes())


def test_stop_ends_the_take_at_once_and_the_request_with_its_next_piece(
    does: SpeakHandlers, backend: FakeBackend
):
    backend.gate.clear()
    views = does.speak(*CONTROLS.values())
    waiting = next(views)
    live = next(views)
    assert "Stopped" in does.stop(live.player).message
    assert does.pull([json.loads(live.player)["take"], 0])["isLast"]
    backend.gate.set()
    assert list(views) == []
    assert "Stopped" in does.stop(waiting.player).message


def test_leaving_in_the_middle_ends_the_take(does: SpeakHandlers, backend: FakeBackend):
    backend.gate.clear()
    views = does.speak(*CONTROLS.values())
    next(views)
    live = json.loads(next(views).player)
    views.close()
    backend.gate.set()
    assert does.pull([live["take"], 0])["isLast"]


def test_a_take_that_nobody_knows_has_ended(does: SpeakHandlers):
    assert does.pull(["unknown", 0]) == {"pcm": "", "isLast": True}


def test_a_restarted_backend_brings_its_own_voices(looks: BackendHandlers, backend: FakeBackend):
    view = looks.refresh("sally", "", None)
    assert view.voice["value"] == "sally"
    assert view.markers["quick"] == ["(excited)", "(sad)", "(laughing)"]
    backend.voices = [voice("robin", language="", is_default=True)]
    backend.uptime_s = 2.0
    view = looks.refresh("sally", "", view.seen)
    assert view.voice["value"] == "robin"
    assert view.voice["choices"] == [("robin", "robin")]


def test_a_backend_that_runs_on_is_not_asked_for_its_voices_again(
    looks: BackendHandlers, backend: FakeBackend
):
    first = looks.refresh("sally", "", None)
    backend.voices = []
    backend.uptime_s += 5
    again = looks.refresh("sally", "", first.seen)
    assert "value" not in again.voice
    assert "Ready" in again.health


def test_a_backend_that_loads_is_shown_so_and_asked_anew_once_it_is_ready(
    looks: BackendHandlers, backend: FakeBackend
):
    first = looks.refresh(None, "", None)
    backend.status = "starting"
    loading = looks.refresh(None, "", first.seen)
    assert "Starting" in loading.health
    assert loading.seen is None


def test_a_backend_that_wants_a_key_makes_the_page_ask_for_it(
    looks: BackendHandlers, backend: FakeBackend
):
    backend.api_key = "a-secret-key"
    view = looks.refresh(None, "", None)
    assert "API key" in view.health
    assert view.key["visible"]
    assert looks.refresh(None, "a-secret-key", None).voice["value"] == "kit"


def test_a_missing_backend_is_shown_and_said(tmp_path: Path):
    with BackendClient(f"http://127.0.0.1:{closed_port()}") as client:
        looks, does = BackendHandlers(client), SpeakHandlers(client, FileShelf(tmp_path))
        assert "does not answer" in looks.refresh(None, "", None).health
        assert "python scripts/start.py" in speak(does)[-1].message
        assert "start.py" in looks.system("")[0]
        assert "start.py" in looks.recent("")
        assert "start.py" in looks.metrics_text("")
        assert "start.py" in looks.clear_cache("all", "")


def test_the_system_tab_shows_model_load_and_requests(
    does: SpeakHandlers, looks: BackendHandlers, backend: FakeBackend
):
    speak(does)
    facts, load = looks.system("")
    assert "pocket" in facts
    assert "25 %" in load
    assert "sally" in looks.recent("")
    assert "tts_requests_total" in looks.metrics_text("")
    assert "Emptied" in looks.clear_cache("semantic", "")
    assert backend.caches_cleared == ["semantic"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("foreign_leftovers")
def test_the_page_builds_without_a_backend_and_every_control_has_a_name(tmp_path: Path):
    with BackendClient("http://127.0.0.1:1") as client:
        page = build_page(client, tmp_path)
    kinds = {"textbox", "dropdown", "slider", "checkbox", "audio", "button", "downloadbutton"}
    controls = [block for block in page.blocks.values() if block.get_block_name() in kinds]
    assert len(controls) > 15
    for block in controls:
        assert getattr(block, "label", None) or getattr(block, "value", None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("foreign_leftovers")
def test_gradio_is_told_not_to_call_home(tmp_path: Path):
    with BackendClient("http://127.0.0.1:1") as client:
        assert not build_page(client, tmp_path).analytics_enabled


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("foreign_leftovers")
def test_the_page_is_served_on_its_own_port_whatever_proxy_is_set(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    settings = UiSettings(gradio_port=closed_port())
    with served_page(settings) as url, httpx.Client(trust_env=False) as http:
        assert url == f"http://127.0.0.1:{settings.gradio_port}/"
        page = http.get(url)
        assert page.status_code == 200
        assert "Fish Speech" in page.text
        assert "https://fonts" not in page.text


def test_a_taken_port_is_said_in_one_line_that_names_the_setting(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("UI_GRADIO_PORT", str(taken.getsockname()[1]))
        done = subprocess.run(
            [sys.executable, "-m", "ui.gradio_app"], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1
    assert "UI_GRADIO_PORT" in done.stderr
    assert "Traceback" not in done.stderr
