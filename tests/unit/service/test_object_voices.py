"""Voices in an object store: two services on one place, and what happens when they meet."""

from __future__ import annotations

import secrets
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.core.errors import (
    InvalidVoiceError,
    SettingsError,
    VoiceExistsError,
    VoiceLimitError,
    VoiceNotFoundError,
    VoiceStorageError,
)
from backend.service.object_place import ObjectPlace
from backend.service.object_voices import ObjectVoiceStore
from backend.service.voice_keeping import NewReference
from backend.service.voice_record import record_name
from backend.service.voice_rules import MAX_REFERENCES, VoiceDraft

ADA = VoiceDraft(name="Ada", language="en", tags=("calm", "low"), consent="she said yes")


def codes(seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, 16, (3, 7)).astype(np.int32)


def recording(seed: int = 0, audio: bytes | None = b"RIFF sound") -> NewReference:
    return NewReference(f"text {seed}", codes(seed), "rev-1", 1.5, audio)


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path / 'shared'}"
    return f"memory://{secrets.token_hex(8)}"


@pytest.fixture
def place(url: str) -> ObjectPlace:
    return ObjectPlace(url)


def opened(url: str, max_voices: int = 5) -> ObjectVoiceStore:
    store = ObjectVoiceStore(ObjectPlace(url), max_voices, look_every_s=0.0)
    store.open()
    return store


def blobs_of(place: ObjectPlace) -> set[str]:
    return {name.split("/")[-1] for name in place.marks("blobs")}


def test_an_object_is_put_read_listed_and_deleted(place: ObjectPlace):
    assert place.read("records/a") is None
    assert place.marks("records") == {}
    assert place.create("records/a", b"one")
    assert not place.create("records/a", b"two")
    before = place.marks("records")
    assert set(before) == {"records/a"}
    place.write("records/a", b"six")
    assert place.marks("records") != before
    assert place.read_all(["records/a", "records/b"]) == {"records/a": b"six"}
    place.delete("records/a")
    place.delete("records/a")
    assert not place.exists("records/a")


@pytest.mark.parametrize(
    ("url", "message"), [("s3://bucket/voices", "s3fs"), ("nosuch://x", "nosuch")]
)
def test_a_backend_that_is_not_there_is_told(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(SettingsError, match=rf"VOICES_URL={url}.*{message}"):
        ObjectPlace(url)


def test_a_place_that_fails_is_told(tmp_path: Path):
    (tmp_path / "shared").write_text("a file where the folder should be")
    store = ObjectVoiceStore(ObjectPlace(f"file://{tmp_path / 'shared'}"), 5)
    with pytest.raises(VoiceStorageError, match="VOICES_URL"):
        store.add(ADA, [recording()])


def test_a_voice_is_there_for_whoever_opens_the_place(url: str):
    added = opened(url).add(ADA, [recording(1), recording(2, audio=None)])
    other = opened(url)
    (voice,) = other.all()
    assert voice == added
    first, second = voice.references
    read = other.read_codes(first)
    assert read is not None
    assert np.array_equal(read, codes(1))
    assert other.read_audio(voice) == [b"RIFF sound", None]
    assert not second.has_audio


def test_what_another_service_did_is_news_once(url: str):
    one, two = opened(url), opened(url)
    assert not two.has_news()
    voice = one.add(ADA, [recording()])
    assert not one.has_news() or one.all() == (voice,)
    assert two.has_news()
    assert two.all() == (voice,)
    assert not two.has_news()
    changed = one.update(voice.id, replace(ADA, description="calmer"))
    assert two.has_news()
    assert two.all() == (changed,)
    one.delete(voice.id)
    assert two.has_news()
    assert two.all() == ()


def test_the_place_is_not_asked_all_the_time(url: str):
    now = [0.0]
    one = opened(url)
    two = ObjectVoiceStore(ObjectPlace(url), 5, look_every_s=5.0, clock=lambda: now[0])
    two.open()
    one.add(ADA, [recording()])
    now[0] = 4.9
    assert not two.has_news()
    now[0] = 5.0
    assert two.has_news()


def test_a_name_belongs_to_one_voice_whoever_adds_it(url: str):
    one, two = opened(url), opened(url)
    one.add(ADA, [recording()])
    for name in ("Ada", "ADA"):
        with pytest.raises(VoiceExistsError, match="already"):
            two.add(replace(ADA, name=name), [recording()])


def test_as_many_voices_as_allowed_of_all_services(url: str):
    opened(url, 1).add(ADA, [recording()])
    with pytest.raises(VoiceLimitError, match="MAX_VOICES"):
        opened(url, 1).add(replace(ADA, name="Bob"), [recording()])


def test_a_new_name_keeps_id_and_recordings_and_frees_the_old_one(url: str):
    store = opened(url)
    voice = store.add(ADA, [recording()])
    renamed = store.update(voice.id, replace(ADA, name="Bea"))
    assert (renamed.id, renamed.references) == (voice.id, voice.references)
    assert [it.draft.name for it in opened(url).all()] == ["Bea"]
    store.add(ADA, [recording(1)])
    with pytest.raises(VoiceExistsError):
        store.update(voice.id, ADA)


def test_a_renaming_that_was_cut_off_shows_one_voice(url: str, place: ObjectPlace):
    store = opened(url)
    voice = store.add(ADA, [recording()])
    old = place.read(record_name("Ada"))
    assert old is not None
    store.update(voice.id, replace(ADA, name="Bea"))
    place.write(record_name("Ada"), old)  # as if the service had died before it deleted it
    other = opened(url)
    assert [it.draft.name for it in other.all()] == ["Bea"]
    other.delete(voice.id)
    assert opened(url).all() == ()
    assert blobs_of(place) == set()


def test_recordings_come_and_go(url: str, place: ObjectPlace):
    store = opened(url)
    voice = store.add(ADA, [recording(1, None)])
    voice = store.add_reference(voice.id, recording(2, None))
    assert [it.text for it in voice.references] == ["text 1", "text 2"]
    voice = store.remove_reference(voice.id, 0)
    assert [it.text for it in voice.references] == ["text 2"]
    assert len(blobs_of(place)) == 1
    with pytest.raises(InvalidVoiceError, match="only recording"):
        store.remove_reference(voice.id, 0)
    with pytest.raises(VoiceNotFoundError, match="no recording"):
        store.remove_reference(voice.id, 1)
    for seed in range(3, 3 + MAX_REFERENCES - 1):
        store.add_reference(voice.id, recording(seed))
    with pytest.raises(VoiceLimitError, match="at most"):
        store.add_reference(voice.id, recording(99))


def test_new_codes_replace_old_ones(url: str, place: ObjectPlace):
    store = opened(url)
    voice = store.add(ADA, [recording(1), recording(2)])
    store.replace_codes(voice.references[1].id, codes(9), "rev-2")
    store.replace_codes(12345, codes(9), "rev-2")
    (changed,) = opened(url).all()
    assert [it.codec_revision for it in changed.references] == ["rev-1", "rev-2"]
    read = store.read_codes(changed.references[1])
    assert read is not None
    assert np.array_equal(read, codes(9))
    assert len(blobs_of(place)) == 3  # two codes and one sound


def test_deleting_a_voice_deletes_what_no_other_voice_has(url: str, place: ObjectPlace):
    store = opened(url)
    ada = store.add(ADA, [recording(1)])
    bob = store.add(replace(ADA, name="Bob"), [recording(1), recording(2)])
    assert len(blobs_of(place)) == 3
    store.delete(bob.id)
    assert store.read_audio(ada) == [b"RIFF sound"]
    assert store.read_codes(ada.references[0]) is not None
    store.delete(ada.id)
    assert blobs_of(place) == set()
    with pytest.raises(VoiceNotFoundError):
        store.delete(ada.id)


def test_what_a_crash_left_over_is_deleted_and_damage_is_noticed(url: str, place: ObjectPlace):
    store = opened(url)
    voice = store.add(ADA, [recording(1)])
    place.write("blobs/" + "0" * 64, b"nobody's")
    opened(url)
    place.write(record_name("Bob"), b'{"version": 1}')
    other = opened(url)
    assert other.all() == (voice,)
    assert "0" * 64 not in blobs_of(place)
    place.write(f"blobs/{voice.references[0].codes_sha256}", b"rotten")
    assert other.read_codes(voice.references[0]) is None


def test_a_damaged_record_costs_no_recordings(url: str, place: ObjectPlace):
    store = opened(url)
    voice = store.add(ADA, [recording()])
    [name] = place.marks("records")
    whole = place.read(name)
    assert whole is not None
    place.write(name, whole[:-40])
    again = opened(url)
    assert again.all() == ()
    other = again.add(replace(ADA, name="Bob"), [recording(1)])
    again.delete(other.id)
    place.write(name, whole)
    [found] = opened(url).all()
    assert opened(url).read_codes(found.references[0]) is not None
    assert found == voice


def test_a_record_of_a_newer_version_is_left_alone(url: str, place: ObjectPlace):
    place.write(record_name("Ada"), b'{"version": 2}')
    with pytest.raises(VoiceStorageError, match="newer version"):
        opened(url)


class Meeting(ObjectPlace):
    """A place in which something happens just before an object is deleted or written."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.before_delete: list[threading.Thread] = []
        self.before_record: list[threading.Thread] = []

    def delete(self, name: str) -> None:
        _let(self.before_delete if name.startswith("blobs/") else [])
        super().delete(name)

    def write(self, name: str, content: bytes) -> None:
        _let(self.before_record if name.startswith("records/") else [])
        super().write(name, content)


def _let(waiting: list[threading.Thread]) -> None:
    while waiting:
        thread = waiting.pop()
        thread.start()
        thread.join()


def test_a_blob_that_is_named_while_it_is_deleted_is_not_lost(url: str):
    place = Meeting(url)
    one = ObjectVoiceStore(place, 5, look_every_s=0.0)
    other = opened(url)
    voice = one.add(ADA, [recording(1)])
    bob = replace(ADA, name="Bob")
    place.before_delete = [threading.Thread(target=other.add, args=(bob, [recording(1)]))]
    one.delete(voice.id)
    last = opened(url)
    (found,) = last.all()
    assert found.draft == bob
    assert last.read_codes(found.references[0]) is not None
    assert last.read_audio(found) == [b"RIFF sound"]


def test_a_recording_that_is_removed_while_the_voice_is_written_stays_removed(url: str):
    place = Meeting(url)
    one = ObjectVoiceStore(place, 5, look_every_s=0.0)
    other = opened(url)
    voice = one.add(ADA, [recording(1, None), recording(2, None)])
    place.before_record = [threading.Thread(target=other.remove_reference, args=(voice.id, 0))]
    one.add_reference(voice.id, recording(3, None))
    last = opened(url)
    (found,) = last.all()
    assert [it.text for it in found.references] == ["text 2", "text 3"]
    assert all(last.read_codes(it) is not None for it in found.references)


def test_many_services_at_once_agree_and_lose_nothing(url: str):
    won: list[str] = []

    def work(number: int) -> None:
        store = opened(url, 100)
        store.add(VoiceDraft(name=f"own {number}"), [recording(number)])
        try:
            store.add(ADA, [recording(number)])
        except VoiceExistsError:
            return
        won.append(f"text {number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, two = opened(url, 100), opened(url, 100)
    assert one.all() == two.all()
    assert len(one.all()) == 7
    (ada,) = [voice for voice in one.all() if voice.draft == ADA]
    assert [it.text for it in ada.references] == won
    for voice in one.all():
        assert one.read_codes(voice.references[0]) is not None
        assert one.read_audio(voice) == [b"RIFF sound"]
