"""The voice library, as the official clients of both dialects see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import fishaudio
import httpx
import openai
import ormsgpack
import pytest
from fishaudio import AsyncFishAudio

from tests.clients import async_fish_client, async_openai_client, old_fish_client
from tests.conftest import file_of, tone
from tests.fakes import FakeEngineClient

RECORDING = file_of(tone(6.0))
JSON = {"Accept": "application/json"}


def address_of(live: httpx.AsyncClient) -> str:
    return str(live.base_url).rstrip("/")


@pytest.fixture
async def fish(live: httpx.AsyncClient) -> AsyncIterator[AsyncFishAudio]:
    async with async_fish_client(address_of(live)) as opened:
        yield opened


@pytest.fixture
async def open_ai(live: httpx.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    async with async_openai_client(address_of(live)) as opened:
        yield opened


async def test_openai_adds_uses_and_deletes_a_voice(
    open_ai: openai.AsyncOpenAI, engine: FakeEngineClient
):
    added = await open_ai.audio.voices.create(
        audio_sample=("me.wav", RECORDING), name="Ada", consent="cons_123"
    )
    assert added.name == "Ada"
    assert added.created_at > 1_600_000_000
    asked: tuple[Any, ...] = ("ada", {"id": added.id})
    for voice in asked:
        answer = await open_ai.audio.speech.create(model="tts-1", input="Hi.", voice=voice)
        assert answer.response.headers["x-voice"] == "Ada"
    assert engine.requests[0].turns[0].codes.shape[1] == 300
    deleted = await open_ai.audio.voices.delete(added.id)
    assert deleted.deleted
    with pytest.raises(openai.NotFoundError):
        await open_ai.audio.speech.create(model="tts-1", input="Hi.", voice="Ada")


async def test_openai_lists_voices_by_id_and_name(live: httpx.AsyncClient):
    answer = (await live.get("/v1/audio/voices")).json()
    assert answer["voices"] == answer["data"]
    names = {item["name"]: item["id"] for item in answer["voices"]}
    assert set(names) == {"alto", "basso"}
    one = (await live.get(f"/v1/audio/voices/{names['alto']}")).json()
    assert one["name"] == "alto"


async def test_other_servers_field_names_work_too(live: httpx.AsyncClient):
    answer = await live.post(
        "/v1/audio/voices",
        data={"name": "Ada", "consent": "mine", "ref_text": "What I say."},
        files={"audio": ("me.wav", RECORDING)},
    )
    assert answer.status_code == 200, answer.text
    voice = (await live.get(f"/model/{answer.json()['id']}")).json()
    assert voice["samples"][0]["text"] == "What I say."


async def test_openais_errors_about_voices_are_the_librarys_own(open_ai: openai.AsyncOpenAI):
    with pytest.raises(openai.BadRequestError, match="audio_sample") as refused:
        await open_ai.audio.voices.create(name="Ada", consent="mine", audio_sample=b"")
    assert refused.value.code == "invalid_request"
    with pytest.raises(openai.BadRequestError):
        await open_ai.audio.voices.create(name="Ada", consent="mine", audio_sample=b"no sound")
    with pytest.raises(openai.ConflictError):
        await open_ai.audio.voices.create(name="alto", consent="mine", audio_sample=RECORDING)
    with pytest.raises(openai.PermissionDeniedError):
        await open_ai.audio.voices.delete("alto")
    with pytest.raises(openai.NotFoundError):
        await open_ai.audio.voices.delete("nobody")
    with pytest.raises(openai.APIStatusError, match="prompt") as prompt:
        await open_ai.audio.voices.create(name="Ada", type="prompt", prompt="A calm voice.")
    assert prompt.value.status_code == 501


async def test_fish_adds_changes_uses_and_deletes_a_voice(
    fish: AsyncFishAudio, live: httpx.AsyncClient, engine: FakeEngineClient
):
    added = await fish.voices.create(
        title="Ada",
        voices=[RECORDING, file_of(tone(5.0, frequency_hz=330.0))],
        texts=["One.", "Two."],
        description="calm",
        tags=["low", "english"],
    )
    assert (added.title, added.state, added.visibility) == ("Ada", "trained", "private")
    assert [sample.text for sample in added.samples] == ["One.", "Two."]
    assert set(added.tags) == {"low", "english"}
    heard = await live.get(added.samples[0].audio)
    assert (heard.status_code, heard.headers["content-type"]) == (200, "audio/wav")
    await fish.tts.convert(text="Hi.", reference_id=added.id)
    assert [turn.text for turn in engine.requests[-1].turns] == ["One.", "Two."]
    await fish.voices.update(added.id, title="Eva", description="loud", tags=["high"])
    changed = await fish.voices.get(added.id)
    assert (changed.title, changed.description, changed.tags) == ("Eva", "loud", ["high"])
    assert changed.updated_at >= changed.created_at
    await fish.voices.delete(added.id)
    with pytest.raises(fishaudio.NotFoundError):
        await fish.voices.get(added.id)


async def test_fish_lists_voices_page_by_page_and_by_what_is_asked(fish: AsyncFishAudio):
    await fish.voices.create(title="Ada", voices=[RECORDING], tags=["low"])
    everything = await fish.voices.list()
    assert everything.total == 3
    assert {voice.title for voice in everything.items} == {"Ada", "alto", "basso"}
    assert everything.items[0].author.id == "self-hosted"
    second = await fish.voices.list(page_size=2, page_number=2)
    assert (second.total, len(second.items)) == (3, 1)
    questions: tuple[dict[str, Any], ...] = (
        {"title": "ad"},
        {"tags": "low"},
        {"tags": ["low"]},
        {"self_only": True},
    )
    for question in questions:
        found = await fish.voices.list(**question)
        assert [voice.title for voice in found.items] == ["Ada"], question
    english = await fish.voices.list(language="en")
    assert [voice.title for voice in english.items] == ["alto"]
    newest = await fish.voices.list(sort_by="created_at")
    assert newest.items[0].title == "Ada"
    assert (await fish.voices.list(author_id="somebody")).total == 0


async def test_the_older_package_sees_the_voices_too(live: httpx.AsyncClient):
    def ask() -> list[str]:
        with old_fish_client(address_of(live)) as client:
            added = client.create_model(title="Ada", voices=[RECORDING], texts=["One."])
            client.update_model(added.id, description="calm")
            assert client.get_model(added.id).description == "calm"
            titles = [model.title for model in client.list_models().items]
            client.delete_model(added.id)
            return titles

    assert set(await asyncio.to_thread(ask)) == {"Ada", "alto", "basso"}


async def test_fishs_errors_about_voices_are_the_librarys_own(fish: AsyncFishAudio):
    with pytest.raises(fishaudio.APIError, match="voices") as missing:
        await fish.voices.create(title="Ada", voices=[])
    assert missing.value.status in (415, 422)
    with pytest.raises(fishaudio.APIError) as taken:
        await fish.voices.create(title="alto", voices=[RECORDING])
    assert taken.value.status == 409
    with pytest.raises(fishaudio.APIError, match="texts"):
        await fish.voices.create(title="Ada", voices=[RECORDING], texts=["One.", "Two."])
    alto = (await fish.voices.list(title="alto")).items[0]
    with pytest.raises(fishaudio.exceptions.PermissionError):
        await fish.voices.delete(alto.id)


async def test_what_fish_keeps_and_we_do_not_is_said(live: httpx.AsyncClient):
    answer = await live.post(
        "/model",
        data={"title": "Ada", "visibility": "public", "train_mode": "fast", "type": "tts"},
        files=[("voices", RECORDING), ("cover_image", b"png")],
    )
    assert answer.status_code == 200, answer.text
    warning = answer.headers["x-warning"]
    assert "visibility" in warning
    assert "cover_image" in warning
    assert "train_mode" not in warning


@pytest.mark.parametrize("is_json", [True, False], ids=["json", "msgpack"])
async def test_references_as_the_official_local_server_has_them(
    live: httpx.AsyncClient, is_json: bool
):
    headers = JSON if is_json else {}

    def read(answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        return answer.json() if is_json else ormsgpack.unpackb(answer.content)

    def body(**fields: str) -> dict[str, Any]:
        if is_json:
            return {"json": fields, "headers": headers}
        msgpack = {"Content-Type": "application/msgpack"}
        return {"content": ormsgpack.packb(fields), "headers": msgpack}

    form: dict[str, Any] = {
        "data": {"id": "Ada", "text": "One."},
        "files": {"audio": ("me.wav", RECORDING)},
    }
    added = read(await live.post("/v1/references/add", **form, headers=headers))
    assert added["success"] is True
    assert added["reference_id"] == "Ada"
    again = await live.post("/v1/references/add", **form, headers=headers)
    assert (again.status_code, set(again.json())) == (409, {"status", "message"})
    listed = read(await live.get("/v1/references/list", headers=headers))
    assert listed["reference_ids"] == ["Ada", "alto", "basso"]
    renamed = body(old_reference_id="Ada", new_reference_id="Eva")
    assert read(await live.post("/v1/references/update", **renamed))["reference_id"] == "Eva"
    spoken = await live.post("/v1/tts", json={"text": "Hi.", "reference_id": "Eva"})
    assert spoken.headers["x-voice"] == "Eva"
    gone = await live.request("DELETE", "/v1/references/delete", **body(reference_id="Eva"))
    assert read(gone)["success"] is True
    twice = await live.request("DELETE", "/v1/references/delete", **body(reference_id="Eva"))
    assert twice.status_code == 404
