from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.core.errors import (
    InvalidVoiceError,
    VoiceExistsError,
    VoiceLimitError,
    VoiceNotFoundError,
    VoiceStorageError,
)
from backend.service.voice_blobs import BlobStore
from backend.service.voice_keeping import NewReference
from backend.service.voice_rules import MAX_REFERENCES, VoiceDraft
from backend.service.voice_store import VoiceStore

ROOT = Path(__file__).resolve().parents[3]
ADA = VoiceDraft(name="Ada", language="en", tags=("calm", "low"), consent="she said yes")


def codes(seed: int = 0, num_frames: int = 7) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, 16, (3, num_frames)).astype(np.int32)


def recording(seed: int = 0, audio: bytes | None = b"RIFF sound") -> NewReference:
    return NewReference(f"text {seed}", codes(seed), "rev-1", 1.5, audio)


def blobs_of(directory: Path) -> set[str]:
    return {path.name for path in (directory / "blobs").glob("*/*")}


@pytest.fixture
def store(tmp_path: Path):
    made = VoiceStore(tmp_path / "voices", 5)
    made.open()
    yield made
    made.close()


def reopened(tmp_path: Path) -> VoiceStore:
    made = VoiceStore(tmp_path / "voices", 5)
    made.open()
    return made


def test_nothing_is_written_before_the_first_voice(tmp_path: Path, store: VoiceStore):
    assert store.all() == ()
    assert not (tmp_path / "voices").exists()


def test_a_voice_survives_a_restart_with_all_that_was_said(tmp_path: Path, store: VoiceStore):
    added = store.add(ADA, [recording(1), recording(2, audio=None)])
    store.close()
    again = reopened(tmp_path)
    (voice,) = again.all()
    assert voice == added
    assert voice.draft == ADA
    assert [reference.text for reference in voice.references] == ["text 1", "text 2"]
    first, second = voice.references
    read = again.read_codes(first)
    assert read is not None
    assert np.array_equal(read, codes(1))
    assert read.dtype == np.int32
    assert again.read_audio(voice) == [b"RIFF sound", None]
    assert not second.has_audio
    again.close()


def test_the_index_is_in_wal_mode(tmp_path: Path, store: VoiceStore):
    store.add(ADA, [recording()])
    with sqlite3.connect(tmp_path / "voices" / "index.sqlite3") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_names_differ_by_more_than_case_and_spelling(store: VoiceStore):
    store.add(replace(ADA, name="Zoë"), [recording()])
    for name in ("zoë", "ZOË", "Zoe\u0308"):
        with pytest.raises(VoiceExistsError, match="already"):
            store.add(replace(ADA, name=name), [recording()])


def test_a_refused_voice_leaves_nothing_behind(tmp_path: Path, store: VoiceStore):
    store.add(ADA, [recording(1)])
    before = blobs_of(tmp_path / "voices")
    with pytest.raises(VoiceExistsError):
        store.add(ADA, [recording(2)])
    assert blobs_of(tmp_path / "voices") == before


def test_as_many_voices_as_allowed(store: VoiceStore):
    for number in range(5):
        store.add(replace(ADA, name=f"voice {number}"), [recording()])
    with pytest.raises(VoiceLimitError, match="MAX_VOICES"):
        store.add(ADA, [recording()])


def test_the_same_recording_is_stored_once(tmp_path: Path, store: VoiceStore):
    first = store.add(ADA, [recording(1)])
    store.add(replace(ADA, name="Bob"), [recording(1)])
    assert len(blobs_of(tmp_path / "voices")) == 2
    store.delete(first.id)
    (bob,) = store.all()
    assert store.read_codes(bob.references[0]) is not None
    assert store.read_audio(bob) == [b"RIFF sound"]


def test_deleting_a_voice_deletes_its_files(tmp_path: Path, store: VoiceStore):
    voice = store.add(ADA, [recording(1), recording(2)])
    store.delete(voice.id)
    assert store.all() == ()
    assert blobs_of(tmp_path / "voices") == set()
    with pytest.raises(VoiceNotFoundError):
        store.delete(voice.id)


def test_recordings_come_and_go(tmp_path: Path, store: VoiceStore):
    voice = store.add(ADA, [recording(1, audio=None)])
    voice = store.add_reference(voice.id, recording(2, audio=None))
    assert [reference.text for reference in voice.references] == ["text 1", "text 2"]
    voice = store.remove_reference(voice.id, 0)
    assert [reference.text for reference in voice.references] == ["text 2"]
    assert len(blobs_of(tmp_path / "voices")) == 1
    with pytest.raises(InvalidVoiceError, match="only recording"):
        store.remove_reference(voice.id, 0)
    for idx in (-1, 1, 99):
        with pytest.raises(VoiceNotFoundError, match="no recording"):
            store.remove_reference(voice.id, idx)


def test_a_voice_has_a_bounded_number_of_recordings(store: VoiceStore):
    voice = store.add(ADA, [recording(seed) for seed in range(MAX_REFERENCES)])
    with pytest.raises(VoiceLimitError, match=f"{MAX_REFERENCES}"):
        store.add_reference(voice.id, recording(99))


def test_a_rename_keeps_id_and_recordings(store: VoiceStore):
    voice = store.add(ADA, [recording()])
    renamed = store.update(voice.id, replace(ADA, name="Eve"))
    assert renamed.id == voice.id
    assert renamed.references == voice.references
    assert store.update(voice.id, replace(ADA, name="EVE")).draft.name == "EVE"
    store.add(ADA, [recording()])
    with pytest.raises(VoiceExistsError):
        store.update(voice.id, ADA)


def test_new_codes_replace_old_ones(tmp_path: Path, store: VoiceStore):
    voice = store.add(ADA, [recording(1)])
    store.replace_codes(voice.references[0].id, codes(9), "rev-2")
    (changed,) = store.all()
    assert changed.references[0].codec_revision == "rev-2"
    read = store.read_codes(changed.references[0])
    assert read is not None
    assert np.array_equal(read, codes(9))
    assert len(blobs_of(tmp_path / "voices")) == 2


def test_damaged_blobs_are_noticed(tmp_path: Path, store: VoiceStore):
    voice = store.add(ADA, [recording(1)])
    for path in (tmp_path / "voices" / "blobs").glob("*/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert store.read_codes(voice.references[0]) is None
    assert store.read_audio(voice) == [None]


def test_a_damaged_blob_is_mended_by_the_same_recording(tmp_path: Path):
    blobs = BlobStore(tmp_path / "blobs")
    name = blobs.write(b"sound")
    (path,) = (tmp_path / "blobs").glob("*/*")
    path.write_bytes(b"noise")
    assert blobs.read(name) is None
    assert blobs.write(b"sound") == name
    assert blobs.read(name) == b"sound"


def test_orphans_and_unfinished_files_are_collected_at_start(tmp_path: Path, store: VoiceStore):
    voice = store.add(ADA, [recording(1)])
    store.close()
    kept = blobs_of(tmp_path / "voices")
    BlobStore(tmp_path / "voices" / "blobs").write(b"of nobody")
    (tmp_path / "voices" / "blobs" / next(iter(kept))[:2] / "half.tmp").write_bytes(b"ha")
    again = reopened(tmp_path)
    assert blobs_of(tmp_path / "voices") == kept
    assert again.all() == (voice,)
    again.close()


def test_an_index_that_is_no_index_says_so(tmp_path: Path):
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / "index.sqlite3").write_bytes(b"not a database at all" * 100)
    with pytest.raises(VoiceStorageError, match="backup"):
        reopened(tmp_path)


def test_an_index_of_a_newer_version_is_left_alone(tmp_path: Path, store: VoiceStore):
    store.add(ADA, [recording()])
    store.close()
    connection = sqlite3.connect(tmp_path / "voices" / "index.sqlite3")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(VoiceStorageError, match="newer version"):
        reopened(tmp_path)


def test_a_full_disk_is_reported_and_changes_nothing(
    tmp_path: Path, store: VoiceStore, monkeypatch: pytest.MonkeyPatch
):
    voice = store.add(ADA, [recording(1)])

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(VoiceStorageError, match="No space left"):
        store.add(replace(ADA, name="Bob"), [recording(2)])
    monkeypatch.undo()
    assert store.all() == (voice,)
    assert not list((tmp_path / "voices").rglob("*.tmp"))
    assert store.add(replace(ADA, name="Bob"), [recording(2)]).draft.name == "Bob"


SCRIPT = textwrap.dedent(
    """
    import os, shutil, sqlite3, sys
    from pathlib import Path
    import numpy as np
    from backend.service.voice_rules import VoiceDraft
    from backend.service.voice_keeping import NewReference
    from backend.service.voice_store import VoiceStore

    base, action = Path(sys.argv[1]), sys.argv[2]
    step, deadly_step = 0, 0

    def counted(function):
        def run(*args, **kwargs):
            global step
            step += 1
            if step == deadly_step:
                os._exit(77)
            return function(*args, **kwargs)
        return run

    def reference(seed):
        codes = np.full((3, 7), seed, np.int32)
        return NewReference(f"text {seed}", codes, "rev-1", 1.5, bytes([seed]) * 50)

    class Connection(sqlite3.Connection):
        execute = counted(sqlite3.Connection.execute)

    def change(directory, action):
        store = VoiceStore(directory, 5)
        voices = {voice.draft.name: voice for voice in store.open()}
        if action == "first":
            store.add(VoiceDraft(name="Ada"), [reference(1), reference(2)])
        elif action == "add":
            store.add(VoiceDraft(name="Bob"), [reference(2), reference(3)])
        elif action == "delete":
            store.delete(voices["Ada"].id)
        elif action == "remove":
            store.remove_reference(voices["Ada"].id, 0)
        elif action == "replace":
            store.replace_codes(voices["Ada"].references[0].id, np.full((3, 7), 9), "rev-2")
        return store

    prepared = base / "prepared"
    prepared.mkdir()
    if action != "first":
        change(prepared, "first").close()
    connect = sqlite3.connect
    os.fsync, Path.replace, Path.unlink = map(counted, (os.fsync, Path.replace, Path.unlink))
    sqlite3.connect = lambda *args, **kwargs: connect(*args, factory=Connection, **kwargs)
    exit_code = 77
    while exit_code == 77:
        deadly_step += 1
        directory = base / str(deadly_step)
        shutil.copytree(prepared, directory)
        child = os.fork()
        if child == 0:
            change(directory, action)
            os._exit(0)
        exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(exit_code)
    """
)
OUTCOMES: dict[str, tuple[set[str], set[str]]] = {
    # voices with their texts, before and after
    "first": (set(), {"Ada: text 1, text 2"}),
    "add": ({"Ada: text 1, text 2"}, {"Ada: text 1, text 2", "Bob: text 2, text 3"}),
    "delete": ({"Ada: text 1, text 2"}, set()),
    "remove": ({"Ada: text 1, text 2"}, {"Ada: text 2"}),
    "replace": ({"Ada: text 1, text 2"}, {"Ada: text 1, text 2"}),
}


def state_of(directory: Path) -> tuple[set[str], bool]:
    """Open what a killed process left; give the voices and whether every file is there, once."""
    store = VoiceStore(directory, 5)
    voices = store.open()
    wanted: set[str] = set()
    for voice in voices:
        for reference in voice.references:
            assert store.read_codes(reference) is not None
            assert store.read_one_audio(reference) is not None
            wanted |= {reference.codes_sha256, str(reference.audio_sha256)}
    store.close()
    found = {
        f"{voice.draft.name}: {', '.join(reference.text for reference in voice.references)}"
        for voice in voices
    }
    return found, blobs_of(directory) == wanted


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes to kill are forked")
@pytest.mark.parametrize("action", OUTCOMES)
def test_a_kill_at_any_step_leaves_the_old_state_or_the_new_one(tmp_path: Path, action: str):
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), action], cwd=ROOT, check=True)
    before, after = OUTCOMES[action]
    steps = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal())
    assert len(steps) > 15  # every call that touches the disk, and the one that was not killed
    found: list[set[str]] = []
    for step in steps:
        voices, is_tidy = state_of(tmp_path / str(step))
        assert voices in (before, after), f"killed at step {step} of {len(steps)}"
        assert is_tidy, f"killed at step {step} of {len(steps)}"
        found.append(voices)
    assert found[0] == before
    assert found[-1] == after


def test_what_another_process_changed_is_news_once(tmp_path: Path, store: VoiceStore):
    assert not store.has_news()  # there is no index yet
    other = reopened(tmp_path)
    other.add(ADA, [recording()])
    assert store.has_news()
    assert [voice.draft for voice in store.all()] == [ADA]
    assert not store.has_news()
    other.add(replace(ADA, name="Bea"), [recording(1)])
    assert store.has_news()
    assert not store.has_news()
    other.close()


def test_ones_own_changes_are_no_news(store: VoiceStore):
    store.add(ADA, [recording()])
    store.has_news()
    store.add(replace(ADA, name="Bea"), [recording(1)])
    assert not store.has_news()
