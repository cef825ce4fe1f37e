"""API keys, as the official clients meet them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import fishaudio
import openai
import pytest

from backend.app import create_app
from tests.clients import KEY, async_fish_client, async_openai_client
from tests.conftest import MakeSettings, serve, until_open
from tests.fakes import FakeEngineClient


async def _addresses(settings: MakeSettings, key: str) -> AsyncIterator[str]:
    app = create_app(settings(api_keys=key), FakeEngineClient())
    async with serve(app) as address:
        await until_open(app)
        yield address


@pytest.fixture
async def foreign(make_settings: MakeSettings) -> AsyncIterator[str]:
    """A server that knows another key than the clients'."""
    async for address in _addresses(make_settings, "another-key-than-theirs"):
        yield address


@pytest.fixture
async def own(make_settings: MakeSettings) -> AsyncIterator[str]:
    """A server that knows the clients' key."""
    async for address in _addresses(make_settings, KEY):
        yield address


async def test_a_wrong_key_is_the_libraries_own_error(foreign: str):
    async with async_openai_client(foreign) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.audio.speech.create(model="tts-1", input="Hi.", voice="alto")
        assert caught.value.code == "invalid_api_key"
    async with async_fish_client(foreign) as fish:
        with pytest.raises(fishaudio.AuthenticationError, match="key"):
            await fish.tts.convert(text="Hi.", reference_id="alto")
        with pytest.raises(fishaudio.AuthenticationError):
            await fish.voices.list()


async def test_a_wrong_key_gets_no_live_connection(foreign: str):
    async def write() -> AsyncIterator[str]:
        yield "Hi."

    async with async_fish_client(foreign) as fish:
        with pytest.raises(Exception, match="401"):
            async for _ in fish.tts.stream_websocket(write(), reference_id="alto"):
                pass


async def test_the_right_key_opens_everything(own: str):
    async def write() -> AsyncIterator[str]:
        yield "Hi."

    async with async_openai_client(own) as client:
        answer = await client.audio.speech.create(model="tts-1", input="Hi.", voice="alto")
        assert answer.content
    async with async_fish_client(own) as fish:
        assert await fish.tts.convert(text="Hi.", reference_id="alto")
        assert [chunk async for chunk in fish.tts.stream_websocket(write(), reference_id="alto")]
