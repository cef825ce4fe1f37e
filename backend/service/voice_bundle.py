"""A voice as one portable file, ``NAME.fishvoice``: a ZIP archive.

``manifest.json`` says everything; ``codes/0.npy``, ``codes/1.npy``, ... are the codes ``[K, F]`` as
little-endian int32; ``audio/0.bin``, ... are the recordings as they were uploaded, where they were
asked for. The manifest holds the SHA-256 of each of them::

    {"format": "fishvoice", "version": 1, "name": "Ada", "language": "en", "tags": [],
     "consent": "...", "description": "", "codec_revision": "0123456789abcdef",
     "created_at": "2026-01-31T12:00:00+00:00",
     "references": [{"text": "...", "duration_s": 9.8, "codes_sha256": "...",
                     "audio_sha256": null}]}

Nothing is unpacked to the disk, so names inside an archive cannot lead anywhere, and no entry is
read beyond its limit, whatever the archive claims.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, ValidationError

from backend.core.errors import InvalidBundleError
from backend.service.codes_file import MAX_CODES_BYTES, codes_from_npy, codes_to_npy
from backend.service.voice_rules import MAX_REFERENCES, VoiceDraft

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "fishvoice"
VERSION = 1
EXTENSION = ".fishvoice"
MEDIA_TYPE = "application/vnd.fishvoice+zip"
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20

_MAX_ENTRIES = 1 + 2 * MAX_REFERENCES
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError, OSError),
)
"""What zipfile raises over damage: offsets that lead nowhere are ``ValueError`` or ``OSError``, a
compression it cannot read ``NotImplementedError``, a password ``RuntimeError``."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same voice gives the same bytes but for created_at
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class BundledReference:
    """One recording of a voice in a file.

    Attributes:
        text: What is said in it.
        codes: ``[K, F]`` int32.
        duration_s: Its length.
        audio: The recording as it was uploaded, or None.
    """

    text: str
    codes: NDArray[np.int32]
    duration_s: float
    audio: bytes | None = None


@dataclass(frozen=True, slots=True)
class VoiceBundle:
    """What a file says.

    Attributes:
        draft: What is said about the voice; not checked yet.
        codec_revision: Names the codec that wrote the codes.
        references: At least one.
    """

    draft: VoiceDraft
    codec_revision: str
    references: tuple[BundledReference, ...]


class _ManifestReference(BaseModel):
    text: str
    duration_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    codes_sha256: _Sha256
    audio_sha256: _Sha256 | None


class _Manifest(BaseModel):
    format: Literal["fishvoice"]
    version: Literal[1]
    name: str
    language: str
    tags: tuple[str, ...]
    consent: str
    description: str
    codec_revision: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    created_at: str
    references: Annotated[
        tuple[_ManifestReference, ...], Field(min_length=1, max_length=MAX_REFERENCES)
    ]


def pack_bundle(bundle: VoiceBundle) -> bytes:
    """Write a voice as one file."""
    entries: dict[str, bytes] = {}
    references: list[_ManifestReference] = []
    for idx, reference in enumerate(bundle.references):
        codes = codes_to_npy(reference.codes)
        entries[_codes_name(idx)] = codes
        if reference.audio is not None:
            entries[_audio_name(idx)] = reference.audio
        references.append(
            _ManifestReference(
                text=reference.text,
                duration_s=reference.duration_s,
                codes_sha256=_sha256(codes),
                audio_sha256=None if reference.audio is None else _sha256(reference.audio),
            )
        )
    manifest = _Manifest(
        format=FORMAT,
        version=VERSION,
        name=bundle.draft.name,
        language=bundle.draft.language,
        tags=bundle.draft.tags,
        consent=bundle.draft.consent,
        description=bundle.draft.description,
        codec_revision=bundle.codec_revision,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        references=tuple(references),
    )
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        _add_entry(archive, MANIFEST, manifest.model_dump_json(indent=1).encode())
        for name, content in entries.items():
            _add_entry(archive, name, content)
    return target.getvalue()


def read_bundle(content: bytes, max_audio_bytes: int) -> VoiceBundle:
    """Read a voice file, trusting nothing in it.

    Args:
        content: The file.
        max_audio_bytes: Largest recordings, all of them together.

    Raises:
        InvalidBundleError: It is no voice file, is of a newer version, or something in it is
            missing, too large or not what its hash says.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if len(archive.infolist()) > _MAX_ENTRIES:
                raise InvalidBundleError(
                    f"the file has more than {_MAX_ENTRIES} entries, which no voice file has"
                )
            manifest = _read_manifest(archive)
            return _read_references(archive, manifest, max_audio_bytes)
    # what zipfile raises over archives that are damaged, encrypted or of an exotic kind
    except _DAMAGE as error:
        raise InvalidBundleError(
            f"the file is no voice file ({error}); send one that GET /voices/NAME/export gave"
        ) from error


def _read_manifest(archive: zipfile.ZipFile) -> _Manifest:
    text = _read_entry(archive, MANIFEST, MAX_MANIFEST_BYTES)
    try:
        values: Any = json.loads(text)
        _refuse_newer(values)
        return _Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise InvalidBundleError(f"{MANIFEST}: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidBundleError(f"{MANIFEST} is not JSON: {error}") from error


def _refuse_newer(values: Any) -> None:
    version: Any = cast("dict[str, Any]", values).get("version") if isinstance(values, dict) else 0
    if isinstance(version, int) and version > VERSION:
        raise InvalidBundleError(
            f"the voice file has format version {version}; this server reads up to {VERSION}, so "
            "update it, or export the voice from an older one"
        )


def _read_references(
    archive: zipfile.ZipFile, manifest: _Manifest, max_audio_bytes: int
) -> VoiceBundle:
    references: list[BundledReference] = []
    for idx, facts in enumerate(manifest.references):
        codes = _verified(archive, _codes_name(idx), MAX_CODES_BYTES, facts.codes_sha256)
        audio = None
        if facts.audio_sha256 is not None:
            audio = _verified(archive, _audio_name(idx), max_audio_bytes, facts.audio_sha256)
            max_audio_bytes -= len(audio)
        try:
            array = codes_from_npy(codes)
        except ValueError as error:
            raise InvalidBundleError(f"{_codes_name(idx)}: {error}") from error
        references.append(BundledReference(facts.text, array, facts.duration_s, audio))
    draft = VoiceDraft(
        name=manifest.name,
        language=manifest.language,
        tags=manifest.tags,
        consent=manifest.consent,
        description=manifest.description,
    )
    return VoiceBundle(draft, manifest.codec_revision, tuple(references))


def _verified(archive: zipfile.ZipFile, name: str, max_bytes: int, sha256: str) -> bytes:
    content = _read_entry(archive, name, max_bytes)
    if _sha256(content) != sha256:
        raise InvalidBundleError(
            f"{name} is not what {MANIFEST} says (another SHA-256): the file was changed or "
            "damaged on its way; export it again"
        )
    return content


def _read_entry(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    """Give an entry's content; at most one byte more than ``max_bytes`` is ever unpacked."""
    try:
        entry = archive.getinfo(name)
    except KeyError as error:
        raise InvalidBundleError(
            f"the file is no voice file: it has no {name}; send one that GET /voices/NAME/export "
            "gave"
        ) from error
    if entry.compress_type not in _METHODS:
        raise InvalidBundleError(f"{name} is packed in a way that voice files are not")
    with archive.open(entry) as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise InvalidBundleError(f"{name} is larger than {max_bytes} bytes")
    return content


def _add_entry(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=_EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content)


def _codes_name(idx: int) -> str:
    return f"codes/{idx}.npy"


def _audio_name(idx: int) -> str:
    return f"audio/{idx}.bin"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
