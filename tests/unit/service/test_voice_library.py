from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.core.errors import (
    InvalidAudioError,
    InvalidBundleError,
    VoiceExistsError,
    VoiceNotFoundError,
    VoiceStorageError,
    VoiceUnusableError,
)
from backend.core.types import EngineInfo
from backend.service import voice_library
from backend.service.cache import VoiceCodesCache
from backend.service.codec_revision import codec_revision
from backend.service.cpu_pool import CpuPool
from backend.service.requests import UploadedReference
from backend.service.voice_library import VoiceService
from backend.service.voice_rules import VoiceChanges, VoiceDraft
from backend.service.voice_store import VoiceStore
from tests.conftest import MakeSettings, file_of, tone, write_voice
from tests.fakes import FAKE_INFO, FakeEngineClient, fake_reference_codes

OTHER_CODEC = replace(FAKE_INFO, revision="fake-2", codebook_sizes=(32, 8, 8, 8))
ADA = VoiceDraft(name="Ada")


def recording(frequency_hz: float = 220.0) -> UploadedReference:
    return UploadedReference(file_of(tone(2.0, frequency_hz)), f"I am {frequency_hz:g}.")


@pytest.fixture
def pool() -> Iterator[CpuPool]:
    made = CpuPool(2)
    yield made
    made.close()


class Shop:
    """Opens services on the same folder, one after another, or on the same ``voices_url``."""

    def __init__(
        self, make_settings: MakeSettings, model_dir: Path, pool: CpuPool, voices_url: str = ""
    ) -> None:
        self._voices_url = voices_url
        self._make_settings = make_settings
        self._model_dir = model_dir
        self._pool = pool
        self.engine = FakeEngineClient()

    @asynccontextmanager
    async def opened(
        self, info: EngineInfo = FAKE_INFO, cache_bytes: int = 1 << 20
    ) -> AsyncIterator[VoiceService]:
        self.engine = FakeEngineClient(info)
        await self.engine.wait_ready()
        cache = VoiceCodesCache(cache_bytes)
        settings = self._make_settings(voices_url=self._voices_url)
        service = VoiceService(self.engine, settings, self._model_dir, self._pool, cache)
        await service.open(info)
        yield service
        await service.close()


@pytest.fixture
def shop(make_settings: MakeSettings, model_dir: Path, pool: CpuPool) -> Shop:
    return Shop(make_settings, model_dir, pool)


@pytest.fixture
def no_own_voices(model_dir: Path) -> None:
    """The model's own voices are of the first codec only."""
    for path in (model_dir / "voices").iterdir():
        path.unlink()


def blobs_of(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "data" / "voices" / "blobs").glob("*/*"))


async def test_codes_are_read_from_the_disk_without_a_cache(shop: Shop):
    async with shop.opened(cache_bytes=0) as service:
        added = await service.add(ADA, [recording()])
        for _ in range(2):
            (turn,) = await service.turns(added.voice)
            assert np.array_equal(turn.codes, fake_reference_codes(shop.engine.encoded[0]))
        assert len(shop.engine.encoded) == 1


@pytest.mark.usefixtures("no_own_voices")
async def test_another_codec_encodes_kept_recordings_again_when_they_are_needed(shop: Shop):
    async with shop.opened() as service:
        await service.add(ADA, [recording(220), recording(330)])
        old_revision = service.codec_revision
    async with shop.opened(OTHER_CODEC) as service:
        assert service.codec_revision != old_revision
        voice = await service.get("Ada")
        assert voice.problem == ""
        assert shop.engine.encoded == []
        both = await asyncio.gather(service.turns(voice), service.turns(voice))
        assert len(shop.engine.encoded) == 2
        for turns in both:
            assert [turn.codes.shape[0] for turn in turns] == [4, 4]
            assert [turn.text for turn in turns] == ["I am 220.", "I am 330."]
    async with shop.opened(OTHER_CODEC) as service:
        await service.turns(await service.get("Ada"))
        assert shop.engine.encoded == []


@pytest.mark.usefixtures("no_own_voices")
async def test_another_codec_cannot_use_voices_without_recordings_and_says_why(shop: Shop):
    async with shop.opened() as service:
        await service.add(ADA, [recording()], keep_audio=False)
    async with shop.opened(OTHER_CODEC) as service:
        (voice,) = await service.list_voices()
        assert "another codec" in voice.problem
        for use in (service.turns(voice), service.preview("Ada"), service.export_bundle("Ada")):
            with pytest.raises(VoiceUnusableError, match="recording was not kept"):
                await use
        await service.rename("Ada", "Old Ada")
    async with shop.opened() as service:
        voice = await service.get("old ada")
        assert voice.problem == ""
        assert len(await service.turns(voice)) == 1


async def test_damaged_codes_are_made_again_from_the_recording(shop: Shop, tmp_path: Path):
    async with shop.opened() as service:
        added = await service.add(ADA, [recording()])
        (before,) = await service.turns(added.voice)
    for path in blobs_of(tmp_path):
        if path.read_bytes().startswith(b"\x93NUMPY"):
            path.write_bytes(b"rot")
    async with shop.opened() as service:
        (after,) = await service.turns(await service.get("Ada"))
        assert np.array_equal(before.codes, after.codes)
        assert len(shop.engine.encoded) == 1
    async with shop.opened() as service:
        await service.turns(await service.get("Ada"))
        assert shop.engine.encoded == []


async def test_damaged_codes_without_recording_are_reported(shop: Shop, tmp_path: Path):
    async with shop.opened() as service:
        await service.add(ADA, [recording()], keep_audio=False)
    for path in blobs_of(tmp_path):
        path.unlink()
    async with shop.opened() as service:
        with pytest.raises(VoiceUnusableError, match="damaged"):
            await service.turns(await service.get("Ada"))


@pytest.mark.usefixtures("no_own_voices")
async def test_a_file_of_another_codec_needs_its_recording(shop: Shop):
    async with shop.opened() as service:
        await service.add(ADA, [recording()])
        codes_alone = await service.export_bundle("Ada")
        with_audio = await service.export_bundle("Ada", include_audio=True)
        await service.delete("Ada")
    async with shop.opened(OTHER_CODEC) as service:
        with pytest.raises(InvalidBundleError, match="include_audio=true"):
            await service.import_bundle(codes_alone)
        voice = await service.import_bundle(with_audio)
        (turn,) = await service.turns(voice)
        assert turn.codes.shape[0] == 4
        assert turn.text == "I am 220."


async def test_a_stored_voice_that_a_model_brings_too_stays_reachable(shop: Shop, model_dir: Path):
    async with shop.opened() as service:
        added = await service.add(ADA, [recording()])
    write_voice(model_dir, "ADA")
    async with shop.opened() as service:
        assert (await service.get("ada")).is_builtin
        stored = await service.get(added.voice.id)
        assert "same name" in stored.problem
        renamed = await service.rename(stored.id, "Ada 2")
        assert renamed.problem == ""
        assert not (await service.get("Ada 2")).is_builtin


async def test_two_adds_of_one_name_at_a_time_make_one_voice(shop: Shop, tmp_path: Path):
    async with shop.opened() as service:
        shop.engine.may_encode.clear()
        tasks = [asyncio.ensure_future(service.add(ADA, [recording(hz)])) for hz in (220, 330)]
        await shop.engine.has_encode.wait()
        shop.engine.may_encode.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(outcome, VoiceExistsError) for outcome in outcomes) == 1
        assert len([v for v in await service.list_voices() if not v.is_builtin]) == 1
        assert len(blobs_of(tmp_path)) == 2


async def test_a_caller_that_leaves_during_the_encode_adds_nothing(shop: Shop, tmp_path: Path):
    async with shop.opened() as service:
        shop.engine.may_encode.clear()
        adding = asyncio.ensure_future(service.add(ADA, [recording()]))
        await shop.engine.has_encode.wait()
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert not service.library.has_name("Ada")
        assert blobs_of(tmp_path) == []


async def test_a_change_that_was_begun_is_shown_although_the_caller_left(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
):
    async with shop.opened() as service:
        await service.add(ADA, [recording()])
        begun, loop = asyncio.Event(), asyncio.get_running_loop()
        update = service._store.update

        def update_and_tell(voice_id: str, draft: VoiceDraft) -> object:
            loop.call_soon_threadsafe(begun.set)
            return update(voice_id, draft)

        monkeypatch.setattr(service._store, "update", update_and_tell)
        renaming = asyncio.ensure_future(service.rename("Ada", "Eve"))
        await begun.wait()
        renaming.cancel()
        await asyncio.wait([renaming])
        await asyncio.gather(*service._shelf._writes, return_exceptions=True)
        assert service.library.has_name("Eve")
        assert not service.library.has_name("Ada")


async def test_a_voice_deleted_while_it_is_asked_for_is_not_found(shop: Shop):
    async with shop.opened() as service:
        voice = (await service.add(ADA, [recording()])).voice
        await service.delete("Ada")
        with pytest.raises(VoiceNotFoundError, match="meanwhile"):
            await service.turns(voice)


async def test_changes_leave_the_rest_alone(shop: Shop):
    async with shop.opened() as service:
        draft = VoiceDraft(name="Ada", language="en", tags=("a",), consent="c", description="d")
        await service.add(draft, [recording()])
        changed = await service.update("Ada", VoiceChanges(description="new"))
        assert (changed.name, changed.language, changed.tags) == ("Ada", "en", ("a",))
        assert (changed.consent, changed.description) == ("c", "new")
        cleared = await service.update("Ada", VoiceChanges(tags=(), language=""))
        assert (cleared.tags, cleared.language) == ((), "")


async def test_refused_recordings_store_nothing(shop: Shop, tmp_path: Path):
    async with shop.opened() as service:
        bad = UploadedReference(file_of(np.sign(tone(2.0))))
        with pytest.raises(InvalidAudioError, match="overdriven"):
            await service.add(ADA, [recording(), bad])
        assert not service.library.has_name("Ada")
        assert not (tmp_path / "data").exists()


async def test_a_folder_that_cannot_be_made_is_reported(shop: Shop, tmp_path: Path):
    (tmp_path / "data").write_text("a file where the folder should be", encoding="utf-8")
    async with shop.opened() as service:
        with pytest.raises(VoiceStorageError, match="DATA_DIR"):
            await service.add(ADA, [recording()])
        assert [voice.name for voice in await service.list_voices()] == ["alto", "basso"]


def test_the_codecs_name_follows_its_files_and_not_the_precision(tmp_path: Path):
    (tmp_path / "codec.safetensors").write_bytes(bytes(range(256)) * 100_000)
    (tmp_path / "codec.yaml").write_text("sample_rate: 16000", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = codec_revision(tmp_path, FAKE_INFO)
    assert len(first) == 16
    (tmp_path / "model.safetensors").write_bytes(b"another")
    other_precision = replace(FAKE_INFO, revision="other", precision="bf16", device="cuda:0")
    assert codec_revision(tmp_path, other_precision) == first
    (tmp_path / "codec.yaml").write_text("sample_rate: 16001", encoding="utf-8")
    assert codec_revision(tmp_path, FAKE_INFO) != first
    (tmp_path / "codec.yaml").write_text("sample_rate: 16000", encoding="utf-8")
    assert codec_revision(tmp_path, FAKE_INFO) == first
    with (tmp_path / "codec.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    assert codec_revision(tmp_path, FAKE_INFO) != first


async def test_voices_of_another_process_are_seen_after_a_look(shop: Shop):
    async with shop.opened() as one, shop.opened() as other:
        added = await one.add(ADA, [recording()])
        with pytest.raises(VoiceNotFoundError):
            await other.get("Ada")
        await other.refresh()
        assert (await other.get("Ada")).id == added.voice.id
        (turn,) = await other.turns(await other.get("Ada"))
        assert np.array_equal(turn.codes, (await one.turns(added.voice))[0].codes)
        await one.delete("Ada")
        await other.refresh()
        with pytest.raises(VoiceNotFoundError):
            await other.get("Ada")


async def test_a_look_before_the_start_and_after_the_end_opens_nothing(shop: Shop, tmp_path: Path):
    async with shop.opened() as service:
        await service.add(ADA, [recording()])
    await service.refresh()
    assert isinstance(service._store, VoiceStore)
    assert service._store._index is None


async def test_services_that_share_an_object_store_see_each_others_voices_by_themselves(
    make_settings: MakeSettings,
    model_dir: Path,
    pool: CpuPool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(voice_library, "LOOK_EVERY_S", 0.01)
    shop = Shop(make_settings, model_dir, pool, f"memory://{tmp_path.name}")
    async with shop.opened() as one, shop.opened() as other:
        added = await one.add(ADA, [recording()])
        for _ in range(3000):
            await asyncio.sleep(0.01)
            if any(voice.name == "Ada" for voice in await other.list_voices()):
                break
        (turn,) = await other.turns(await other.get("Ada"))
        assert np.array_equal(turn.codes, (await one.turns(added.voice))[0].codes)
    assert not (tmp_path / "data").exists()
