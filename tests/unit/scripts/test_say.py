from __future__ import annotations

import io
import struct
import threading
import wave
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from backend.audio.wav import wav_header
from backend.core.errors import GenerationError, InvalidInputError
from scripts.local_http import NO_ANSWER, fetch, multipart
from scripts.processes import free_port
from scripts.say import error_message, say, sized_wav

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RATE = 8000
SPEECH = wav_header(RATE, num_samples=None) + bytes(2 * RATE)


class FakeBackend:
    """Answers ``POST /tts`` as told and remembers what was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.promised_bytes = 200, SPEECH, len(SPEECH)
        self.asked = b""
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                backend.asked = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(backend.status)
                self.send_header("Content-Length", str(backend.promised_bytes))
                self.end_headers()
                self.wfile.write(backend.body)

            def log_message(self, format: str, *args: object) -> None:
                del format, args

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeBackend:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    with FakeBackend() as server:
        yield server


def test_the_file_is_a_wav_with_true_sizes(backend: FakeBackend, tmp_path: Path) -> None:
    out = tmp_path / "new" / "hello.wav"
    line = say(backend.url, "Hello.", None, out)

    assert line.startswith(f"{out}: 1.00 s of speech in ")
    with wave.open(str(out)) as speech:
        assert (speech.getframerate(), speech.getnframes()) == (RATE, RATE)
    assert struct.unpack_from("<I", out.read_bytes(), 4)[0] == out.stat().st_size - 8


def test_text_and_voice_reach_the_backend(backend: FakeBackend, tmp_path: Path) -> None:
    say(backend.url, "Grüße, 世界", "kit", tmp_path / "x.wav")
    for field, value in (("text", "Grüße, 世界"), ("voice", "kit"), ("format", "wav")):
        part = f'Content-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        assert part.encode() in backend.asked


def test_a_refusal_is_told_in_the_backends_words(backend: FakeBackend, tmp_path: Path) -> None:
    backend.status, backend.body = 404, b'{"error": {"message": "no voice is called bob"}}'
    backend.promised_bytes = len(backend.body)
    with pytest.raises(InvalidInputError, match="no voice is called bob"):
        say(backend.url, "Hi.", "bob", tmp_path / "x.wav")
    assert not (tmp_path / "x.wav").exists()


def test_a_stream_that_breaks_off_is_an_error(backend: FakeBackend, tmp_path: Path) -> None:
    backend.promised_bytes += 1000
    with pytest.raises(GenerationError, match="IncompleteRead"):
        say(backend.url, "Hi.", None, tmp_path / "x.wav")
    assert not (tmp_path / "x.wav").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"type": "x", "message": "m"}}', "m"),
        (b'{"error": "m"}', '{"error": "m"}'),
        (b"[]", "[]"),
        (b"plain", "plain"),
    ],
)
def test_messages_are_found_in_any_error_body(body: bytes, message: str) -> None:
    assert error_message(body) == message


@pytest.mark.parametrize("answer", [b"", b"ID3 mp3", wav_header(RATE, num_samples=0)[:20]])
def test_an_answer_without_speech_is_refused(answer: bytes) -> None:
    with pytest.raises(GenerationError):
        sized_wav(answer)


def test_a_wav_with_true_sizes_stays_as_it_is() -> None:
    whole = wav_header(RATE, num_samples=3) + bytes(6)
    assert sized_wav(whole) == (whole, 3 / RATE)
    with wave.open(io.BytesIO(whole)) as speech:
        assert speech.getnframes() == 3


def test_nobody_there_is_an_answer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    status, reason = fetch(f"http://127.0.0.1:{free_port()}/", timeout_s=5.0)
    assert status == NO_ANSWER
    assert b"refused" in reason


def test_form_fields_are_separated_by_a_line_that_is_in_none_of_them() -> None:
    body, content_type = multipart({"a": "1"})
    boundary = content_type.split("boundary=")[1].encode()
    assert body.startswith(b"--" + boundary)
    assert body.endswith(b"--" + boundary + b"--\r\n")
