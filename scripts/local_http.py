"""HTTP to servers on this machine, with the standard library alone and past any proxy."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
NO_ANSWER = 0


def fetch(
    url: str,
    timeout_s: float,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """GET, or POST a body; give the status and what was answered.

    The status is ``NO_ANSWER`` when nobody answers or the answer breaks off; the bytes then say
    what happened.
    """
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}))  # noqa: S310 - http by construction
    try:
        with _DIRECT.open(request, timeout=timeout_s) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (OSError, http.client.HTTPException) as error:
        return NO_ANSWER, f"{type(error).__name__}: {error}".encode()


def multipart(fields: Mapping[str, str]) -> tuple[bytes, str]:
    """Give form fields as a multipart body and its content type."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    body = "".join(parts) + f"--{boundary}--\r\n"
    return body.encode(), f"multipart/form-data; boundary={boundary}"
