from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest

from backend.core.errors import InvalidBundleError
from backend.service.codes_file import codes_from_npy, codes_to_npy
from backend.service.voice_bundle import BundledReference, VoiceBundle, pack_bundle, read_bundle
from backend.service.voice_rules import VoiceDraft

MIB = 1 << 20
CODES = np.arange(21, dtype=np.int32).reshape(3, 7)
BUNDLE = VoiceBundle(
    draft=VoiceDraft(name="Zoë 张", language="en", tags=("calm",), consent="yes", description="d"),
    codec_revision="0123456789abcdef",
    references=(
        BundledReference("Hello.", CODES, 0.14, None),
        BundledReference("", CODES[:, :3], 0.06, b"RIFF" * 20),
    ),
)


def entries_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_of(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target.getvalue()


def with_manifest(**changes: Any) -> bytes:
    entries = entries_of(pack_bundle(BUNDLE))
    entries["manifest.json"] = json.dumps(
        {**json.loads(entries["manifest.json"]), **changes}
    ).encode()
    return zip_of(entries)


def with_codes(codes: bytes) -> bytes:
    """Put other codes in, with the hash that belongs to them."""
    entries = entries_of(pack_bundle(BUNDLE))
    manifest = json.loads(entries["manifest.json"])
    manifest["references"][0]["codes_sha256"] = hashlib.sha256(codes).hexdigest()
    return zip_of({**entries, "manifest.json": json.dumps(manifest).encode(), "codes/0.npy": codes})


def without(name: str) -> bytes:
    entries = entries_of(pack_bundle(BUNDLE))
    del entries[name]
    return zip_of(entries)


def test_what_is_packed_is_read_again():
    read = read_bundle(pack_bundle(BUNDLE), MIB)
    assert read.draft == BUNDLE.draft
    assert read.codec_revision == BUNDLE.codec_revision
    for ours, theirs in zip(read.references, BUNDLE.references, strict=True):
        assert (ours.text, ours.duration_s, ours.audio) == (
            theirs.text,
            theirs.duration_s,
            theirs.audio,
        )
        assert np.array_equal(ours.codes, theirs.codes)
        assert ours.codes.dtype == np.int32


def test_the_manifest_says_what_it_should():
    manifest = json.loads(entries_of(pack_bundle(BUNDLE))["manifest.json"])
    assert manifest["format"] == "fishvoice"
    assert manifest["version"] == 1
    assert manifest["created_at"].endswith("+00:00")
    codes = entries_of(pack_bundle(BUNDLE))["codes/0.npy"]
    assert manifest["references"][0]["codes_sha256"] == hashlib.sha256(codes).hexdigest()
    assert np.array_equal(np.load(io.BytesIO(codes)), CODES)


def test_every_changed_byte_of_codes_and_audio_is_noticed():
    entries = entries_of(pack_bundle(BUNDLE))
    for name in ("codes/0.npy", "codes/1.npy", "audio/1.bin"):
        changed = bytearray(entries[name])
        changed[-1] ^= 1
        with pytest.raises(InvalidBundleError, match=f"{name}.*SHA-256"):
            read_bundle(zip_of({**entries, name: bytes(changed)}), MIB)


def npy_claiming(shape: str, body: bytes, descr: str = "<i4") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * ((-len(header) - 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no voice file"),
    "text": (b"hello", "no voice file"),
    "empty zip": (zip_of({}), "no manifest.json"),
    "another zip": (zip_of({"a.txt": b"hello"}), "no manifest.json"),
    "half a file": (pack_bundle(BUNDLE)[:200], "no voice file"),
    "manifest is no JSON": (zip_of({"manifest.json": b"{"}), "not JSON"),
    "manifest is a list": (zip_of({"manifest.json": b"[]"}), "manifest.json"),
    "manifest is not UTF-8": (zip_of({"manifest.json": b'"\xff"'}), "not JSON"),
    "manifest is nested deeply": (zip_of({"manifest.json": b"[" * 90_000}), "not JSON"),
    "manifest lacks keys": (zip_of({"manifest.json": b"{}"}), "format"),
    "newer version": (with_manifest(version=2), "format version 2"),
    "no version": (with_manifest(version="1"), "version"),
    "another format": (with_manifest(format="voice"), "format"),
    "name is a number": (with_manifest(name=5), "name"),
    "no references": (with_manifest(references=[]), "references"),
    "path as revision": (with_manifest(codec_revision="../../etc"), "codec_revision"),
    "codes missing": (without("codes/1.npy"), "no codes/1.npy"),
    "audio missing": (without("audio/1.bin"), "no audio/1.bin"),
    "too many entries": (zip_of({f"{number}": b"" for number in range(40)}), "entries"),
    "manifest is a bomb": (zip_of({"manifest.json": b" " * (20 * MIB)}), "larger than"),
    "codes are a bomb": (with_codes(bytes(20 * MIB)), "larger than"),
    "codes are no array": (with_codes(b"nothing"), "codes/0.npy"),
    "codes claim terabytes": (with_codes(npy_claiming("(1000000, 1000000)", b"")), "codes/0.npy"),
    "codes are objects": (with_codes(npy_claiming("(3, 7)", b"", "|O")), "codes/0.npy"),
    "codes are floats": (with_codes(npy_claiming("(3, 7)", bytes(84), "<f4")), "codes/0.npy"),
    "codes are flat": (with_codes(npy_claiming("(21,)", bytes(84))), "codes/0.npy"),
    "codes are none": (with_codes(npy_claiming("(3, 0)", b"")), "codes/0.npy"),
    "codes are negative": (with_codes(npy_claiming("(-3, -7)", bytes(84))), "codes/0.npy"),
    "codes have a bad header": (with_codes(npy_claiming("(3, 7", bytes(84))), "codes/0.npy"),
    "exotic packing": (zip_of({"manifest.json": b"{}"}, zipfile.ZIP_LZMA), "packed"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_are_no_voices_are_refused(case: str):
    content, words = BAD_FILES[case]
    with pytest.raises(InvalidBundleError, match=words):
        read_bundle(content, MIB)


def test_recordings_together_are_bounded():
    with pytest.raises(InvalidBundleError, match="larger than 79 bytes"):
        read_bundle(pack_bundle(BUNDLE), 79)


def test_an_encrypted_archive_is_refused():
    content = bytearray(pack_bundle(BUNDLE))
    for mark, flags_at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = content.index(mark) + flags_at
        content[at] |= 1
    with pytest.raises(InvalidBundleError, match="no voice file"):
        read_bundle(bytes(content), MIB)


def test_any_cut_and_any_flipped_byte_is_refused_or_harmless():
    content = pack_bundle(BUNDLE)
    rng = np.random.default_rng(7)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        try:
            read = read_bundle(bytes(damaged), MIB)
        except InvalidBundleError:
            continue
        assert all(np.isin(reference.codes, CODES).all() for reference in read.references)
    for size in rng.integers(0, len(content), 60):
        with pytest.raises(InvalidBundleError):
            read_bundle(content[:size], MIB)


def test_codes_keep_their_values_in_a_file():
    codes = codes_from_npy(codes_to_npy(CODES[:, ::2]))
    assert np.array_equal(codes, CODES[:, ::2])
    assert not codes.flags.writeable
