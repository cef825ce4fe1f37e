from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from backend.core.api_keys import find_key, hash_key, hash_keys
from backend.core.errors import SettingsError
from backend.core.settings import Settings, read_settings

KEY = "correct-horse-battery"
DIGEST = "sha256:" + hashlib.sha256(KEY.encode()).hexdigest()


def test_plain_key_becomes_its_digest():
    assert hash_keys([KEY]) == (DIGEST,)


def test_digest_is_taken_as_it_is_in_either_case():
    assert hash_keys(["sha256:" + DIGEST.removeprefix("sha256:").upper()]) == (DIGEST,)


def test_a_key_given_twice_counts_once():
    assert hash_keys([KEY, DIGEST, KEY]) == (DIGEST,)


@pytest.mark.parametrize(
    "entry", ["short", "with space in it", "umlaut-schlüssel", "sha256:12", "sha256:" + "g" * 64, 7]
)
def test_unusable_entry_is_refused_and_not_quoted(entry: object):
    with pytest.raises(ValueError, match="entry 2") as refusal:
        hash_keys([KEY, entry])
    assert str(entry) not in str(refusal.value).replace("sha256:", "").replace("entry 2", "")


def test_the_key_is_found_among_several_and_others_are_not():
    digests = hash_keys(["another-key", KEY, "third-key-"])
    assert find_key([b"wrong", KEY.encode()], digests) == DIGEST
    assert find_key([b"wrong", b"", KEY.encode() + b"x", DIGEST.encode()], digests) is None


def test_bytes_that_are_no_text_are_only_wrong():
    assert find_key([b"\xff\x00"], (hash_key(b"other"),)) is None


def test_settings_keep_digests_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("API_KEYS", f" {KEY} , second-key ,")
    settings = read_settings(None)
    assert len(settings.api_keys) == 2
    assert KEY not in repr(settings)
    assert KEY not in settings.model_dump_json()


def test_no_key_is_the_default_and_an_empty_value_is_none(monkeypatch: pytest.MonkeyPatch):
    assert Settings().api_keys == ()
    monkeypatch.setenv("API_KEYS", "")
    assert read_settings(None).api_keys == ()


def test_malformed_keys_stop_the_start_without_being_shown(tmp_path: Path):
    path = tmp_path / ".env"
    path.write_text("API_KEYS=good-key-1234,bäd-secret\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"API_KEYS.*entry 2") as refusal:
        read_settings(path)
    assert "bäd" not in str(refusal.value)
    assert "good-key" not in str(refusal.value)
