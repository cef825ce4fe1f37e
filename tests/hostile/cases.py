"""The table of hostile requests: where each is sent, what is sent, how it may be refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import ormsgpack

from tests.hostile import tricks

JSON = "application/json"
MSGPACK = "application/msgpack"
REFUSALS = frozenset({400, 403, 404, 405, 409, 411, 413, 415, 422, 431, 501})
"""501: an operation of a foreign dialect that is not offered."""


@dataclass(frozen=True, slots=True)
class Case:
    """One hostile request.

    Attributes:
        name: Unique.
        method: HTTP method.
        path: With its parameters filled in.
        sent: Keyword arguments of the client's ``request``.
        statuses: How it may be refused.
        may_pass: It is odd rather than wrong, so a success is right too.
    """

    name: str
    method: str
    path: str
    sent: dict[str, Any] = field(default_factory=dict)
    statuses: frozenset[int] = REFUSALS
    may_pass: bool = False


def raw(content: bytes, media_type: str = JSON, **headers: str) -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": media_type, **headers}}


JSON_ENDPOINTS: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/tts"): {"text": "Hi."},
    ("POST", "/tts/batch"): {"items": [{"text": "Hi."}]},
    ("POST", "/jobs"): {"text": "Hi."},
    ("POST", "/cache/clear"): {"cache": "all"},
    ("POST", "/v1/audio/speech"): {"input": "Hi.", "model": "tts-1", "voice": "alto"},
    ("POST", "/v1/tts"): {"text": "Hi."},
}
"""Endpoints that read JSON, with a body that they take."""

MALFORMED: dict[str, bytes] = {
    "cut JSON": b'{"text": "Hi.", "input": "Hi."',
    "list": b"[]",
    "list of bodies": b'[{"text": "Hi."}]',
    "string": b'"text"',
    "number": b"7",
    "null": b"null",
    "true": b"true",
    "NaN": b"NaN",
    "broken UTF-8": b'{"text": "\xff\xfe", "input": "\xc3\x28", "cache": "\xff"}',
    "UTF-16": '{"text": "Hi.", "input": "Hi."}'.encode("utf-16"),
    "deep lists": tricks.nested_lists(100_000),
    "deep field": b'{"text": ' + tricks.nested_lists(50_000) + b"}",
    "two documents": b'{"text": "Hi."} {"text": "Hi."}',
    "comment": b'{"text": "Hi." /* really */}',
    "NUL bytes": bytes(2000),
    "gzip bomb": tricks.gzip_bomb(10 * tricks.MIB),
    "python": b"{'text': 'Hi.'}",
    "xml": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'b'>]><a>&b;</a>",
    "too large": b'{"text": "' + b"x" * (3 * tricks.MIB) + b'"}',
}

_HUGE = 10**30
WRONG_VALUES: dict[str, tuple[Any, ...]] = {
    "text": (
        None,
        5,
        1.5,
        True,
        [],
        {},
        ["Hi."],
        {"$ne": ""},
        "",
        " \n\t",
        "\x00",
        "🎉",
        "x" * 11_000,
    ),
    "voice": (5, [], {}, True, "nobody", "", *tricks.PATH_TRICKS),
    "temperature": (-1, 3, 1e400, -_HUGE, "hot", "", [], {}, True, [0.5]),
    "top_p": (-0.1, 0, 1.01, _HUGE, "x", [], {}),
    "repetition_penalty": (-1, 0, 3, _HUGE, "x", []),
    "max_new_tokens": (-1, _HUGE, 1.5, "x", [], {}),
    "min_new_tokens": (-1, _HUGE, 1.5, "x", [], {}, 32768),
    "seed": (-1, 2**32, _HUGE, 0.5, "x", [], {}),
    "format": ("", "midi", "exe", "../wav", 5, [], {}, "wav\r\nX-Evil: 1"),
    "speed": (-1, 0, 100, _HUGE, "fast", []),
    "volume": (-1000, 1000, "loud", []),
    "sample_rate": (-1, 0, 1, 10**9, "x", 8000.5, []),
    "stream": ("maybe", 5, [], {}),
    "normalize": ("maybe", 5, []),
    "trim_silence": ("maybe", 5, []),
    "language": ("xx", "english", 5, "../en", []),
    "prompt_text": (5, [], {}, "a transcript without a recording"),
}
"""Values that ``POST /tts`` must not take, by field."""

OPENAI_WRONG: dict[str, tuple[Any, ...]] = {
    "input": (None, 5, [], {}, "", "  ", "x" * 11_000),
    "voice": (5, [], {}, {"id": 5}, "nobody", "../../etc/passwd", "\x00"),
    "model": (5, [], {}),
    "response_format": ("midi", 5, [], {}, "wav\r\nX: 1"),
    "speed": (-1, 0, 100, _HUGE, "fast", [], {}),
    "stream_format": ("text", 5, []),
    "instructions": (5, [], {}),
}
FISH_WRONG: dict[str, tuple[Any, ...]] = {
    "text": (None, 5, [], {}, "", " "),
    "format": ("midi", 5, [], {}),
    "reference_id": (5, {}, "nobody", "../../etc/passwd", "x" * 5000, "\x00"),
    "references": ("x", 5, {}, [5], [{}], [{"audio": 5}], [{"audio": None, "text": "a"}]),
    "prosody": ("x", 5, [], {"speed": 100}, {"speed": "x"}, {"volume": 1e9}),
    "chunk_length": ("x", [], {}),
    "temperature": (-1, 10, "x", [], _HUGE),
    "top_p": (-1, 2, "x", []),
    "repetition_penalty": (-1, 0, "x"),
    "max_new_tokens": (-1, "x", _HUGE),
    "mp3_bitrate": (1, "x", -64),
    "opus_bitrate": ("x", []),
    "sample_rate": (1, -1, 10**9, "x"),
    "latency": (5, []),
    "normalize": ("maybe", []),
}
BATCH_WRONG: dict[str, tuple[Any, ...]] = {
    "items": (None, 5, "x", {}, [], [5], [None], [{}], [{"text": ""}], [{"text": "Hi."}] * 2000),
}

BROKEN_MSGPACK: dict[str, bytes] = {
    "empty": b"",
    "reserved byte": b"\xc1",
    "cut map": b"\x82\xa4text\xa3Hi.",
    "string of 4 GB": b"\x81\xa4text\xdb\xff\xff\xff\xff" + b"x" * 100,
    "list of 4 billion": b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100,
    "map of 4 billion": b"\xdf\xff\xff\xff\xff" + b"\xa1a\xc0" * 100,
    "deep maps": tricks.nested_maps(50_000),
    "deep lists": b"\x91" * 50_000 + b"\xc0",
    "extension": b"\x81\xa4text\xc7\x03\x05abc",
    "timestamp": b"\x81\xa4text\xd6\xff\x00\x00\x00\x00",
    "bytes as text": ormsgpack.packb({"text": b"Hi."}),
    "broken UTF-8": b"\x81\xa4text\xa2\xff\xfe",
    "number": b"\x07",
    "nil": b"\xc0",
    "list": ormsgpack.packb([{"text": "Hi."}]),
    "number as key": b"\x82\x01\x02\xa4text\xa3Hi.",
    "trailing bytes": ormsgpack.packb({"text": "Hi."}) + b"\x00\x00",
    "NaN temperature": b"\x82\xa4text\xa3Hi.\xabtemperature\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    "JSON": b'{"text": "Hi."}',
    "random": tricks.NOISE,
    "too large": ormsgpack.packb({"text": "Hi.", "references": [{"audio": bytes(3 << 20)}]}),
}
MSGPACK_ENDPOINTS = ("/v1/tts", "/v1/vqgan/encode", "/v1/vqgan/decode", "/v1/references/add")

UPLOADS: dict[str, tuple[str, str, dict[str, str]]] = {
    "/tts": ("POST", "speaker_file", {"text": "Hi."}),
    "/voices": ("POST", "audio", {"name": "mallory"}),
    "/v1/audio/voices": ("POST", "audio_sample", {"name": "mallory", "consent": "yes"}),
    "/model": ("POST", "voices", {"title": "mallory", "type": "tts", "train_mode": "fast"}),
    "/v1/references/add": ("POST", "audio", {"id": "mallory", "text": "Hi."}),
}
"""Endpoints that take a recording: method, field of the file, further fields."""

NAMED = {
    "/voices": "name",
    "/v1/audio/voices": "name",
    "/model": "title",
    "/v1/references/add": "id",
}
"""Uploads that give a voice its name, and the field for it."""

ID_PATHS: tuple[tuple[str, str], ...] = (
    ("GET", "/voices/{}"),
    ("DELETE", "/voices/{}"),
    ("PATCH", "/voices/{}"),
    ("GET", "/voices/{}/preview"),
    ("GET", "/voices/{}/export"),
    ("GET", "/jobs/{}"),
    ("DELETE", "/jobs/{}"),
    ("GET", "/jobs/{}/audio"),
    ("GET", "/jobs/{}/events"),
    ("POST", "/jobs/{}/cancel"),
    ("POST", "/jobs/{}/pause"),
    ("POST", "/jobs/{}/resume"),
    ("GET", "/model/{}"),
    ("DELETE", "/model/{}"),
    ("PATCH", "/model/{}"),
    ("DELETE", "/v1/audio/voices/{}"),
    ("GET", "/v1/models/{}"),
    ("GET", "/metrics/requests/{}"),
    ("GET", "/docs/assets/{}"),
)
NOT_ALLOWED: tuple[tuple[str, str], ...] = (
    ("DELETE", "/tts"),
    ("PUT", "/tts"),
    ("GET", "/tts"),
    ("POST", "/health"),
    ("DELETE", "/"),
    ("TRACE", "/tts"),
    ("CONNECT", "/tts"),
    ("BREW", "/tts"),
    ("GET", "/cache/clear"),
    ("GET", "/v1/audio/speech"),
    ("GET", "/v1/tts"),
    ("POST", "/v1/models"),
    ("POST", "/metrics"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/.env"),
    ("GET", "/.git/config"),
    ("GET", "/wp-admin.php"),
    ("GET", "/docs/assets/../../../etc/passwd"),
)
_UNREAD_TYPES = ("text/xml", "text/plain", "image/png", "application/x-yaml", "application/pickle")


def _malformed() -> Iterator[Case]:
    for method, path in JSON_ENDPOINTS:
        for name, content in MALFORMED.items():
            yield Case(f"{path}: {name}", method, path, raw(content))


def _wrong_values() -> Iterator[Case]:
    for path, fields in (
        ("/tts", WRONG_VALUES),
        ("/v1/audio/speech", OPENAI_WRONG),
        ("/v1/tts", FISH_WRONG),
        ("/tts/batch", BATCH_WRONG),
    ):
        good = JSON_ENDPOINTS["POST", path]
        for field_name, values in fields.items():
            for number, value in enumerate(values):
                body = json.dumps({**good, field_name: value}).encode()
                shown = json.dumps(value)[:20]
                yield Case(f"{path}: {field_name} {number} {shown}", "POST", path, raw(body))


def _msgpack() -> Iterator[Case]:
    for path in MSGPACK_ENDPOINTS:
        for name, content in BROKEN_MSGPACK.items():
            may_pass = name == "trailing bytes"  # a reader may stop where the value ends
            sent = raw(content, MSGPACK)
            yield Case(f"{path}: msgpack, {name}", "POST", path, sent, may_pass=may_pass)


def _uploads() -> Iterator[Case]:
    for path, (method, file_field, fields) in UPLOADS.items():
        for name, content in tricks.BAD_RECORDINGS.items():
            sent = {"data": fields, "files": {file_field: ("voice.wav", content, "audio/wav")}}
            yield Case(f"{path}: recording, {name}", method, path, sent)
        large = {"data": fields, "files": {file_field: ("a.wav", bytes(3 * tricks.MIB))}}
        yield Case(f"{path}: 3 MiB", method, path, large, frozenset({413}))
        no_boundary = raw(b"x", "multipart/form-data")
        yield Case(f"{path}: no boundary", method, path, no_boundary)
        cut = raw(b"--b\r\nContent-Disposition: form-data; na", "multipart/form-data; boundary=b")
        yield Case(f"{path}: cut form", method, path, cut)
        many = {"data": {f"field{n}": "x" for n in range(2000)}, "files": {"z": b"x"}}
        yield Case(f"{path}: 2000 fields", method, path, many)
        headers = b"--b\r\n" + b"X-A: b\r\n" * 5000 + b"\r\nx\r\n--b--\r\n"
        yield Case(
            f"{path}: 5000 headers in a part",
            method,
            path,
            raw(headers, "multipart/form-data; boundary=b"),
        )
    twice = [("speaker_file", ("a.wav", tricks.SPEECH)), ("speaker_file", ("b.wav", tricks.SPEECH))]
    yield Case("/tts: two recordings", "POST", "/tts", {"data": {"text": "Hi."}, "files": twice})
    yield Case("/tts: text twice", "POST", "/tts", {"data": {"text": ["a", "b"]}})


def _names() -> Iterator[Case]:
    for number, name in enumerate(tricks.ODD_NAMES):
        for path, title in NAMED.items():
            method, file_field, fields = UPLOADS[path]
            files = {file_field: (name, tricks.SPEECH, "audio/wav")}
            sent = {"data": {**fields, title: name}, "files": files}
            yield Case(f"{path}: name trick {number}", method, path, sent, may_pass=True)
    for number, name in enumerate(tricks.PATH_TRICKS):
        segment = quote(name, "").replace(".", "%2E")  # clients resolve plain dots themselves
        for method, path in ID_PATHS:
            yield Case(f"{method} {path}: id trick {number}", method, path.format(segment))


def _archives() -> Iterator[Case]:
    contents = {
        "zip bomb": tricks.zip_bomb(50 * tricks.MIB),
        "zip slip": tricks.zip_of({"../../evil.json": b"{}", "/etc/evil": b"x"}),
        "empty zip": tricks.zip_of({}),
        "gzip bomb": tricks.gzip_bomb(50 * tricks.MIB),
        "10000 members": tricks.zip_of({f"{n}.json": b"{}" for n in range(10_000)}),
        "text": b"not a bundle",
        "empty": b"",
        "JSON": b'{"voices": [{"name": "../../x", "codes": [[1e400]]}]}',
        "deep JSON": tricks.nested_lists(100_000),
        "recording": tricks.SPEECH,
        "noise": tricks.NOISE,
    }
    for name, content in contents.items():
        for file_field in ("file", "bundle"):
            sent = {"files": {file_field: ("bundle.zip", content)}}
            yield Case(f"/voices/import: {name} as {file_field}", "POST", "/voices/import", sent)
        as_body = raw(content, "application/zip")
        yield Case(f"/voices/import: {name} as body", "POST", "/voices/import", as_body)


def _headers() -> Iterator[Case]:
    body = json.dumps({"text": "Hi."}).encode()
    for media_type in _UNREAD_TYPES:
        unread = frozenset({400, 415, 422})
        yield Case(f"/tts as {media_type}", "POST", "/tts", raw(body, media_type), unread)
    yield Case("/tts without a type", "POST", "/tts", {"content": body}, frozenset({415}))
    encoded = raw(tricks.gzip_bomb(tricks.MIB), JSON, **{"Content-Encoding": "gzip"})
    yield Case("/tts: gzip encoding", "POST", "/tts", encoded)
    for method, path in NOT_ALLOWED:
        yield Case(f"{method} {path}", method, path)
    for query in ("limit=-1", "limit=1e9", "limit=NaN", "limit=%00", "limit=" + "9" * 5000):
        path = f"/metrics/requests?{query}"
        yield Case(f"GET {path[:40]}", "GET", path, statuses=frozenset({422}))


def all_cases() -> list[Case]:
    """Give the whole table."""
    groups = (_malformed, _wrong_values, _msgpack, _uploads, _names, _archives, _headers)
    return [case for group in groups for case in group()]


ALL_CASES = all_cases()
