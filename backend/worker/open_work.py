"""What was asked of the engine and is not answered yet, and what becomes of it when it dies."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from backend.core.errors import EngineDiedError
from backend.worker.mailbox import Mailbox
from backend.worker.protocol import (
    Answered,
    Audio,
    Began,
    Call,
    Command,
    Event,
    Failed,
    Finished,
    Refused,
    Submit,
)

if TYPE_CHECKING:
    from backend.core.types import SynthesisRequest, SynthesisSummary
    from backend.worker.protocol import Verb

MAX_TRIES = 2
"""Times a request is begun; then it is the likely reason why the engine dies."""
MAX_DEATHS_SEEN = 8
"""Deaths that a request waits through although it was never begun."""


@dataclass(slots=True)
class OpenRequest:
    """A request until its end.

    Attributes:
        request: As it is sent to the engine.
        mailbox: Where its results go.
        tries: Times that an engine began with it.
        has_begun: The engine of now has begun with it.
        has_sound: Some of its audio is out, so it cannot be begun anew.
        has_ended: Nothing more comes.
        deaths_seen: Engines that died while it was open.
    """

    request: SynthesisRequest
    mailbox: Mailbox = field(default_factory=Mailbox)
    tries: int = 0
    has_begun: bool = False
    has_sound: bool = False
    has_ended: bool = False
    deaths_seen: int = 0


@dataclass(slots=True)
class _OpenCall:
    command: Call
    answer: asyncio.Future[Any]
    tries: int = 0


class OpenWork:
    """Requests and calls by id, in the order in which they came. Confined to the event loop."""

    def __init__(self) -> None:
        self._requests: dict[str, OpenRequest] = {}
        self._calls: dict[int, _OpenCall] = {}
        self._serials = itertools.count()

    @property
    def is_empty(self) -> bool:
        """Whether the engine has nothing to do."""
        return not self._requests and not self._calls

    @property
    def num_requests(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    @property
    def num_running(self) -> int:
        """Requests that an engine has begun with."""
        return sum(opened.has_begun for opened in self._requests.values())

    def open_request(self, request: SynthesisRequest) -> OpenRequest:
        """Take a request in; its id is made unique."""
        if request.request_id in self._requests:
            name = f"{request.request_id}#{next(self._serials)}"
            request = replace(request, request_id=name)
        opened = OpenRequest(request)
        self._requests[request.request_id] = opened
        return opened

    def close_request(self, opened: OpenRequest) -> None:
        """Forget a request; what still comes of it is dropped."""
        self._requests.pop(opened.request.request_id, None)

    def open_call(self, verb: Verb, args: tuple[Any, ...]) -> tuple[Call, asyncio.Future[Any]]:
        """Take a call in; its answer comes through the future."""
        command = Call(next(self._serials), verb, args)
        answer = asyncio.get_running_loop().create_future()
        self._calls[command.call_id] = _OpenCall(command, answer)
        return command, answer

    def close_call(self, command: Call) -> None:
        """Forget a call."""
        self._calls.pop(command.call_id, None)

    def take(self, event: Event) -> None:
        """Hand an event to whoever waits for it; nobody may, when it has just left."""
        match event:
            case Answered(call_id, value):
                if (call := self._calls.pop(call_id, None)) and not call.answer.done():
                    call.answer.set_result(value)
            case Refused(call_id, error):
                if call := self._calls.pop(call_id, None):
                    _refuse(call, error)
            case Began() | Audio() | Finished() | Failed():
                if opened := self._requests.get(event.request_id):
                    self._take_result(opened, event)
            case _:
                raise AssertionError(f"{type(event).__name__} is not about a request")

    def commands(self) -> list[Command]:
        """Give what a new engine has to be told, in the order in which it was asked for."""
        for call in self._calls.values():
            call.tries += 1
        return [
            *(call.command for call in self._calls.values()),
            *(Submit(opened.request) for opened in self._requests.values()),
        ]

    def note_sent(self, command: Call) -> None:
        """Note that the engine of now was told of a call."""
        self._calls[command.call_id].tries += 1

    def engine_died(self, reason: str) -> int:
        """Keep what a new engine can do, end the rest with ``EngineDiedError``.

        Returns:
            The number of streams that were cut.
        """
        num_broken = 0
        for opened in list(self._requests.values()):
            opened.deaths_seen += 1
            opened.has_begun = False
            if opened.has_sound:
                num_broken += opened.request.stream  # files have not been heard, and are made anew
                self._end(opened, EngineDiedError(f"{reason} while it spoke: the sound ends here"))
            elif opened.tries >= MAX_TRIES or opened.deaths_seen >= MAX_DEATHS_SEEN:
                self._end(opened, EngineDiedError(f"{reason}, again, before there was any sound"))
        for call in list(self._calls.values()):
            if call.tries >= MAX_TRIES:
                del self._calls[call.command.call_id]
                _refuse(call, EngineDiedError(f"{reason}, again, before there was an answer"))
        return num_broken

    def fail_all(self, error: Exception) -> None:
        """End everything with ``error``."""
        for opened in list(self._requests.values()):
            self._end(opened, error)
        for call in self._calls.values():
            _refuse(call, error)
        self._calls.clear()

    def _take_result(self, opened: OpenRequest, event: Began | Audio | Finished | Failed) -> None:
        match event:
            case Began():
                opened.has_begun = True
                opened.tries += 1
            case Audio(_, chunk):
                opened.has_sound = True
                opened.mailbox.put(chunk)
            case Finished(_, summary):
                self._end(opened, summary)
            case Failed(_, error):
                self._end(opened, error)

    def _end(self, opened: OpenRequest, result: SynthesisSummary | Exception) -> None:
        opened.has_ended = True
        opened.mailbox.put(result)
        self.close_request(opened)


def _refuse(call: _OpenCall, error: Exception) -> None:
    if not call.answer.done():
        call.answer.set_exception(error)
