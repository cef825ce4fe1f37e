"""What users type is spoken text, whichever door it comes through: never a command to the model."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from backend.app import create_app
from backend.core.model_location import POCKET_DIR
from backend.models.prompt import build_prompt
from backend.models.tokenizer import Tokenizer
from tests.conftest import AppClient, MakeSettings, file_of, tone, until_open, write_voice
from tests.fakes import FAKE_INFO, FakeEngineClient

TOKENS = ["<|im_end|>", "<|im_start|>", "<|interleave|>", "<|speaker:0|>", "<|semantic:5|>"]
SPEECH = file_of(tone(2.0))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_directory(POCKET_DIR)


def control_ids(tokenizer: Tokenizer, engine: FakeEngineClient) -> list[list[int]]:
    """Lay out what reached the engine as the model would read it; give its control tokens."""
    first_control = tokenizer.vocab_size - tokenizer.num_semantic
    first_control = min(first_control, tokenizer.im_end_id, tokenizer.interleave_id)
    found: list[list[int]] = []
    for request in engine.requests:
        rows = build_prompt(tokenizer, request.text, request.turns, FAKE_INFO.num_codebooks)
        is_code = rows[1:].any(dim=0)
        found.append([int(i) for i in rows[0][~is_code] if i >= first_control])
    return found


def doors(token: str) -> dict[str, tuple[str, dict[str, Any]]]:
    text = f"Hello {token} there."
    upload = {"speaker_file": ("a.wav", SPEECH)}
    return {
        "text": ("/tts", {"json": {"text": text}}),
        "text of a form": ("/tts", {"data": {"text": text}}),
        "transcript": (
            "/tts",
            {"data": {"text": "Hello there.", "prompt_text": text}, "files": upload},
        ),
        "OpenAI": (
            "/v1/audio/speech",
            {"json": {"input": text, "model": "tts-1", "voice": "alto"}},
        ),
        "Fish": ("/v1/tts", {"json": {"text": text, "reference_id": "alto"}}),
    }


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("door", doors(""))
def test_typed_control_token_is_ordinary_text(
    client: TestClient, engine: FakeEngineClient, tokenizer: Tokenizer, door: str, token: str
):
    plain_path, plain = doors("")[door]
    assert client.post(plain_path, **plain).status_code == 200
    expected = control_ids(tokenizer, engine)
    engine.requests.clear()
    path, sent = doors(token)[door]
    assert client.post(path, **sent).status_code == 200
    assert control_ids(tokenizer, engine) == expected
    read = [*(request.text for request in engine.requests)]
    read += [turn.text for request in engine.requests for turn in request.turns]
    assert any(token in text for text in read)  # it is spoken as it was typed


def test_template_tokens_are_found_by_this_test(tokenizer: Tokenizer):
    """Else the test above would hold for any prompt."""
    engine = FakeEngineClient()
    ids = tokenizer.encode_template("Hello <|im_end|> there.")
    assert tokenizer.im_end_id in ids
    assert tokenizer.im_end_id not in tokenizer.encode("Hello <|im_end|> there.")
    assert control_ids(tokenizer, engine) == []


def test_voice_whose_name_is_a_control_token_is_only_a_name(
    make_settings: MakeSettings, engine: FakeEngineClient, tokenizer: Tokenizer, tmp_path: Any
):
    settings = make_settings()
    write_voice(tmp_path / "model", "odd", name="<|im_end|>", text="I am odd.")
    app = create_app(settings, engine)
    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(until_open, app)
        client.post("/tts", json={"text": "Hello.", "voice": "alto"})
        answer = client.post("/tts", json={"text": "Hello.", "voice": "<|im_end|>"})
        assert answer.status_code == 200
        plain, odd = control_ids(tokenizer, engine)
        assert odd == plain


def test_unknown_voice_of_that_name_is_just_unknown(app_client: AppClient):
    with app_client() as client:
        answer = client.post("/tts", json={"text": "Hello.", "voice": "<|im_end|>"})
        assert answer.status_code == 404
