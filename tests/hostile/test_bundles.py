"""Voice files that were tampered with: refused with a reason, and nothing is unpacked in excess."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backend.core.errors import InvalidBundleError
from backend.service.voice_bundle import MANIFEST, read_bundle
from tests.hostile import tricks
from tests.hostile.conftest import Target
from tests.hostile.envelopes import message_of

MAX_AUDIO_BYTES = 1 << 20
NUM_MUTATIONS = 400


@pytest.fixture(scope="module")
def exported(target: Target) -> bytes:
    """A good voice file."""
    files = {"audio": ("a.wav", tricks.SPEECH, "audio/wav")}
    target.client.post("/voices", data={"name": "to be exported"}, files=files)
    answer = target.client.get("/voices/to be exported/export")
    assert answer.status_code == 200
    return answer.content


def entries_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def with_manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def tamper(exported: bytes) -> bytes:
        entries = entries_of(exported)
        manifest = json.loads(entries[MANIFEST])
        change(manifest)
        return tricks.zip_of({**entries, MANIFEST: json.dumps(manifest).encode()})

    return tamper


def with_entry(name: str, content: bytes) -> Callable[[bytes], bytes]:
    return lambda exported: tricks.zip_of({**entries_of(exported), name: content})


def with_bomb(name: str) -> Callable[[bytes], bytes]:
    def tamper(exported: bytes) -> bytes:
        entries = {key: value for key, value in entries_of(exported).items() if key != name}
        target = io.BytesIO(tricks.zip_bomb(100 * tricks.MIB, name))
        with zipfile.ZipFile(target, "a") as archive:
            for key, value in entries.items():
                archive.writestr(key, value)
        return target.getvalue()

    return tamper


TAMPERED: dict[str, Callable[[bytes], bytes]] = {
    "manifest bomb": with_bomb(MANIFEST),
    "codes bomb": with_bomb("codes/0.npy"),
    "audio bomb": with_bomb("audio/0.bin"),
    "other codes": with_entry("codes/0.npy", b"\x93NUMPY\x01\x00" + bytes(64)),
    "pickled codes": with_entry("codes/0.npy", b"\x80\x04cos\nsystem\n(S'true'\ntR."),
    "deep manifest": with_entry(MANIFEST, tricks.nested_lists(100_000)),
    "manifest of NUL": with_entry(MANIFEST, bytes(1000)),
    "newer version": with_manifest(lambda m: m.update(version=99)),
    "other format": with_manifest(lambda m: m.update(format="zip")),
    "name is a list": with_manifest(lambda m: m.update(name=["a"])),
    "name is a path": with_manifest(lambda m: m.update(name="../../etc/passwd")),
    "name is empty": with_manifest(lambda m: m.update(name="")),
    "name is huge": with_manifest(lambda m: m.update(name="x" * 10_000)),
    "name of controls": with_manifest(lambda m: m.update(name="a\x00b\r\nc")),
    "no references": with_manifest(lambda m: m.update(references=[])),
    "1000 references": with_manifest(lambda m: m.update(references=m["references"] * 1000)),
    "other hash": with_manifest(lambda m: m["references"][0].update(codes_sha256="0" * 64)),
    "hash is a path": with_manifest(lambda m: m["references"][0].update(codes_sha256="../x")),
    "infinite length": with_manifest(lambda m: m["references"][0].update(duration_s=1e400)),
    "cut in half": lambda exported: exported[: len(exported) // 2],
    "directory only": lambda exported: exported[-200:],
    "twice": lambda exported: exported + exported[100:],
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_voice_file_is_refused(target: Target, exported: bytes, name: str):
    files = {"file": ("voice.fishvoice", TAMPERED[name](exported))}
    answer = target.client.post("/voices/import", data={"name": ""}, files=files)
    assert answer.status_code in {400, 409, 413, 422}, answer.text[:300]
    message_of(answer, "/voices/import")
    assert target.client.post("/tts", json={"text": "Well."}).status_code == 200


def test_flipped_bytes_are_found_and_never_a_fault(exported: bytes):
    """Whatever zipfile and numpy raise over damage becomes the one error for it."""
    rng = np.random.default_rng(11)
    refused = 0
    for _ in range(NUM_MUTATIONS):
        damaged = bytearray(exported)
        # most of the file is packed sound; its headers are at both ends
        span = 400 if rng.random() < 0.7 else len(damaged)
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(-span, span))
            damaged[place] = int(rng.integers(256))
        try:
            read_bundle(bytes(damaged), MAX_AUDIO_BYTES)
        except InvalidBundleError:
            refused += 1
    assert refused > NUM_MUTATIONS // 3


def test_the_file_itself_is_read(exported: bytes):
    assert len(read_bundle(exported, MAX_AUDIO_BYTES).references) == 1
