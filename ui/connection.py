"""Requests to the backend. Failures of any kind arrive as ``BackendError``, readable for people."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from ui.replies import ErrorReply

if TYPE_CHECKING:
    from collections.abc import Generator

ReplyT = TypeVar("ReplyT", bound=BaseModel)

CONNECT_TIMEOUT_S = 5.0
SUCCESS = frozenset({200, 201, 202, 204})


class BackendError(Exception):
    """The backend could not be reached or refused.

    Args:
        message: What happened and what to do, for users.
        status: HTTP status, or None when there was no answer.
        request_id: Names the request in the backend's log.
    """

    def __init__(
        self, message: str, status: int | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.request_id = request_id

    @property
    def asks_for_key(self) -> bool:
        """Whether the backend wants an API key, or another one."""
        return self.status == 401


class Connection:
    """Send requests to one backend; may be used from several threads.

    Args:
        base_url: Its address, without a path.
        http: The HTTP client to use; whoever made it closes it.
        timeout_s: How long to wait for the next piece of an answer.
        api_key: Sent with every request; empty sends none.
    """

    def __init__(self, base_url: str, http: httpx.Client, timeout_s: float, api_key: str) -> None:
        self.base_url = base_url.rstrip("/")
        self.http = http
        self.timeout_s = timeout_s
        self._timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def send(
        self, method: str, path: str, timeout_s: float | None = None, **body: Any
    ) -> httpx.Response:
        """Send a request and give the answer, a refusal too.

        Raises:
            BackendError: There was no answer.
        """
        timeout = self._timeout if timeout_s is None else httpx.Timeout(timeout_s)
        headers = {**self._headers, **body.pop("headers", {})}
        with self.readable_failures():
            return self.http.request(
                method, self.base_url + path, timeout=timeout, headers=headers, **body
            )

    def ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        """Send a request and give the answer.

        Raises:
            BackendError: There was no answer, or a refusal.
        """
        response = self.send(method, path, **body)
        if response.status_code not in SUCCESS:
            raise refusal(response)
        return response

    def get(self, kind: type[ReplyT], path: str, **body: Any) -> ReplyT:
        """Read a value.

        Raises:
            BackendError: There was no answer, a refusal, or something else than ``kind``.
        """
        return parsed(kind, self.ask("GET", path, **body))

    @contextmanager
    def stream(self, method: str, path: str, **body: Any) -> Generator[httpx.Response, None, None]:
        """Send a request and give the answer before its body; leaving the block ends it."""
        with (
            self.readable_failures(),
            self.http.stream(
                method,
                self.base_url + path,
                timeout=self._timeout,
                headers=self._headers,
                **body,
            ) as response,
        ):
            if response.status_code not in SUCCESS:
                response.read()
                raise refusal(response)
            yield response

    @contextmanager
    def readable_failures(self) -> Generator[None, None, None]:
        """Turn what can happen to a connection into ``BackendError``."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise BackendError(
                f"The backend at {self.base_url} does not answer. Start it with start_backend.bat "
                "or python scripts/start.py, or correct UI_BACKEND_URL."
            ) from error
        except httpx.TimeoutException as error:
            raise BackendError(
                f"The backend at {self.base_url} took too long. Try a shorter text, or raise "
                "UI_TIMEOUT_S."
            ) from error
        except UnicodeEncodeError as error:
            raise BackendError("The API key has a character that no key has.") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise BackendError(
                f"The connection to the backend at {self.base_url} broke off: it was stopped or "
                f"restarted. Try again. ({error})"
            ) from error


def segment(name: str) -> str:
    """Write a name so that it is one segment of a path, whatever is in it."""
    return quote(name, safe="")


def refusal(response: httpx.Response) -> BackendError:
    """Give the error that an answer means."""
    status = response.status_code
    try:
        said = ErrorReply.model_validate_json(response.content).error
    except ValidationError:
        return BackendError(
            f"{response.request.url} answered with status {status} and no "
            "explanation: does UI_BACKEND_URL point at the speech server?",
            status,
        )
    return BackendError(said.message, status, said.request_id)


def parsed(kind: type[ReplyT], response: httpx.Response) -> ReplyT:
    """Read an answer.

    Raises:
        BackendError: It is something else than ``kind``.
    """
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise BackendError(
            f"{response.request.url} answered something else than expected: is it the speech "
            "server, and of the same version as this page?",
            response.status_code,
        ) from error
