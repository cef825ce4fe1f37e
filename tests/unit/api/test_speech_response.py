from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from backend.api.streaming import SpeechResponse, cache_word, while_connected
from backend.core.errors import GenerationError
from backend.service.ledger import SpeechLedger
from backend.service.requests import Speech

SCOPE = {"type": "http"}


class Source:
    """Chunks of speech; knows whether it was closed."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self.is_closed = False
        self._chunks = chunks
        self._error = error

    def speech(self) -> Speech:
        return Speech("audio/wav", "wav", 16_000, SpeechLedger("r"), b"first", self._rest())

    async def _rest(self) -> AsyncGenerator[bytes, None]:
        try:
            for chunk in self._chunks:
                yield chunk
            if self._error is not None:
                raise self._error
        finally:
            self.is_closed = True


class Client:
    """The other end of an ASGI connection."""

    def __init__(self, *, takes: int = 100) -> None:
        self.messages: list[Message] = []
        self.leaves = asyncio.Event()
        self.is_stalled = asyncio.Event()
        self._takes = takes

    async def receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if len(self.messages) >= self._takes:
            self.is_stalled.set()
            await asyncio.Event().wait()
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def has_end(self) -> bool:
        return self.messages[-1].get("more_body") is False


async def test_all_chunks_are_sent_with_start_and_end():
    source, client = Source(b"a", b"b"), Client()
    await SpeechResponse(source.speech(), {"X-Seed": "1"})(SCOPE, client.receive, client.send)
    assert client.messages[0]["status"] == 200
    assert (b"x-seed", b"1") in client.messages[0]["headers"]
    assert (b"content-type", b"audio/wav") in client.messages[0]["headers"]
    assert (client.body, client.has_end) == (b"firstab", True)


async def test_client_that_leaves_while_nothing_can_be_sent_closes_the_speech():
    source, client = Source(b"a", b"b"), Client(takes=2)
    sending = asyncio.create_task(
        SpeechResponse(source.speech(), {})(SCOPE, client.receive, client.send)
    )
    await client.is_stalled.wait()
    client.leaves.set()
    await sending
    assert source.is_closed
    assert client.body == b"first"


async def test_client_that_leaves_at_once_closes_the_speech():
    rest = Source(b"a")
    speech = rest.speech()
    assert await anext(speech.rest) == b"a"  # begun, as it is after the first bytes
    client = Client(takes=0)
    client.leaves.set()
    await SpeechResponse(speech, {})(SCOPE, client.receive, client.send)
    assert rest.is_closed


async def test_client_that_takes_nothing_is_cut_off():
    source, client = Source(b"a"), Client(takes=2)
    await SpeechResponse(source.speech(), {}, stall_timeout_s=0.0)(
        SCOPE, client.receive, client.send
    )
    assert not client.has_end
    assert source.is_closed


async def test_error_in_the_middle_is_raised_and_leaves_no_end():
    source, client = Source(b"a", error=GenerationError("broken")), Client()
    with pytest.raises(GenerationError):
        await SpeechResponse(source.speech(), {})(SCOPE, client.receive, client.send)
    assert (client.body, client.has_end) == (b"firsta", False)


async def test_work_is_cancelled_when_the_client_leaves():
    client, has_begun, ended = Client(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            has_begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(while_connected(Request(SCOPE, client.receive), work()))
    await has_begun.wait()
    client.leaves.set()
    with pytest.raises(ClientDisconnect):
        await waiting
    assert ended.is_set()


async def test_work_gives_its_result_or_its_error():
    client = Client()

    async def work(error: Exception | None) -> int:
        if error is not None:
            raise error
        return 7

    request = Request(SCOPE, client.receive)
    assert await while_connected(request, work(None)) == 7
    with pytest.raises(GenerationError):
        await while_connected(request, work(GenerationError("broken")))


def test_cache_words():
    assert [cache_word(state) for state in (True, False, None)] == ["hit", "miss", ""]
