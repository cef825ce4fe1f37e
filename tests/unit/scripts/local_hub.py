"""A small Hugging Face hub on loopback: model listing and files, with faults to order.

It speaks the part of the protocol that ``huggingface_hub`` uses to look a model up and to fetch
its files: ``GET /api/models/{repo}`` and ``GET|HEAD /{repo}/resolve/{revision}/{file}`` with
ranges, ``ETag``, ``X-Repo-Commit`` and the error codes in ``X-Error-Code``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 1000
"""Files from this size on are listed as LFS files, by SHA-256."""


@dataclass
class LocalHub:
    """What the hub holds and how it misbehaves.

    Attributes:
        repository: The only model there is.
        files: Content by name.
        renamed_from: A former name, which redirects.
        token: Bearer token that is asked for, or None.
        accepted: Whether the token's account accepted the model's terms.
        cut_after: Bytes after which the first download of a file breaks off.
        damaged: Names of files that arrive with a flipped byte.
        status: Answer everything with this status.
    """

    repository: str
    files: dict[str, bytes]
    renamed_from: str | None = None
    token: str | None = None
    accepted: bool = True
    cut_after: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    status: int | None = None
    downloads: Counter[str] = field(default_factory=Counter)
    ranges: dict[str, list[str]] = field(default_factory=dict)

    def __enter__(self) -> LocalHub:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def listing(self) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for name, content in self.files.items():
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
            if len(content) >= LARGE_BYTES:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
            siblings.append(entry)
        return {"id": self.repository, "sha": REVISION, "siblings": siblings}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: LocalHub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> LocalHub:
        return cast("_Server", self.server).hub

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.removeprefix("/")
        former = self.hub.renamed_from
        if self.hub.status is not None:
            self.refuse(self.hub.status, "", "ordered by the test")
        elif former and former in path:
            self.answer(307, b"", Location="/" + self.path[1:].replace(former, self.hub.repository))
        elif path == f"api/models/{self.hub.repository}":
            self.list_model()
        elif path.startswith(f"{self.hub.repository}/resolve/{REVISION}/"):
            self.serve_file(path.rsplit("/", 1)[1])
        else:
            self.refuse(404, "RepoNotFound", "Repository not found")

    def do_HEAD(self) -> None:
        self.do_GET()

    def list_model(self) -> None:
        given = self.headers.get("Authorization")
        if given is not None and self.hub.token and given != f"Bearer {self.hub.token}":
            self.refuse(401, "", "Invalid credentials in Authorization header")
        else:
            self.answer(200, json.dumps(self.hub.listing()).encode())

    def serve_file(self, name: str) -> None:
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.refuse(401, "GatedRepo", "Access to this model is restricted.")
        if not self.hub.accepted:
            return self.refuse(403, "GatedRepo", "You are not in the authorized list.")
        if name not in self.hub.files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        return self.send_content(name)

    def send_content(self, name: str) -> None:
        content = self.hub.files[name]
        if name in self.hub.damaged:
            content = bytes([content[0] ^ 1]) + content[1:]
        self.hub.downloads[name] += 1
        start, asked = 0, self.headers.get("Range")
        if asked:
            self.hub.ranges.setdefault(name, []).append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
        body, cut = content[start:], self.hub.cut_after.pop(name, None)
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        if asked:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if cut is None else body[:cut])
        self.close_connection = cut is not None

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.answer(status, json.dumps({"error": message}).encode(), **headers)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        del format, args  # the tests' output stays clean
