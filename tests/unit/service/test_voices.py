from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.core.errors import CheckpointError, VoiceNotFoundError
from backend.core.model_location import POCKET_DIR
from backend.models.codec.weights import read_codec
from backend.service.voices import VoiceLibrary
from tests.conftest import write_voice
from tests.fakes import FAKE_INFO


def test_voices_are_read_in_order_with_their_codes(model_dir: Path):
    library = VoiceLibrary.load(model_dir, FAKE_INFO)
    assert [voice.name for voice in library.voices] == ["alto", "basso"]
    alto = library.find("alto")
    assert alto.turn.text == "I am alto."
    assert alto.turn.codes.shape == (3, 8)
    assert alto.turn.codes.dtype == np.int32
    assert alto.duration_s == pytest.approx(8 / FAKE_INFO.frame_rate)
    assert (alto.description, alto.language) == ("high", "en")


def default_name(model_dir: Path) -> str | None:
    default = VoiceLibrary.load(model_dir, FAKE_INFO).default
    return default.name if default else None


def test_default_is_the_first_by_name_unless_one_is_flagged(model_dir: Path):
    assert default_name(model_dir) == "alto"
    write_voice(model_dir, "basso", default=True)
    assert default_name(model_dir) == "basso"


def test_model_without_voices_has_no_default(tmp_path: Path):
    library = VoiceLibrary.load(tmp_path, FAKE_INFO)
    assert library.voices == ()
    assert library.default is None


def test_name_is_found_whatever_its_case(model_dir: Path):
    assert VoiceLibrary.load(model_dir, FAKE_INFO).find(" Alto ").name == "alto"


def test_unknown_voice_lists_the_known_ones(model_dir: Path):
    library = VoiceLibrary.load(model_dir, FAKE_INFO)
    with pytest.raises(VoiceNotFoundError, match="'tenor'; known voices: alto, basso"):
        library.find("tenor")


def test_unknown_voice_of_a_model_without_voices_says_so(tmp_path: Path):
    with pytest.raises(VoiceNotFoundError, match="comes without voices"):
        VoiceLibrary.load(tmp_path, FAKE_INFO).find("tenor")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"codes": [[1, 2], [1, 2]]}, "3 rows of equal length"),
        ({"codes": [[1, 2], [1, 2], [1]]}, "3 rows of equal length"),
        ({"codes": [[], [], []]}, "3 rows of equal length"),
        ({"codes": [[64], [0], [0]]}, "outside its codebook"),
        ({"codes": [[0], [-1], [0]]}, "outside its codebook"),
        ({"codes": [["x"], [0], [0]]}, "codes"),
        ({"name": "../evil"}, "name"),
        ({"text": None}, "text"),
    ],
)
def test_unusable_file_stops_the_start_and_is_named(
    model_dir: Path, changes: dict[str, object], complaint: str
):
    path = write_voice(model_dir, "broken", **changes)
    with pytest.raises(CheckpointError, match=complaint) as refused:
        VoiceLibrary.load(model_dir, FAKE_INFO)
    assert str(path) in str(refused.value)


def test_file_that_is_no_json_is_named(model_dir: Path):
    (model_dir / "voices" / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"bad\.json"):
        VoiceLibrary.load(model_dir, FAKE_INFO)


def test_two_voices_cannot_share_a_name(model_dir: Path):
    write_voice(model_dir, "other", name="ALTO")
    with pytest.raises(CheckpointError, match="taken twice"):
        VoiceLibrary.load(model_dir, FAKE_INFO)


def test_two_defaults_are_refused(model_dir: Path):
    write_voice(model_dir, "alto", default=True)
    write_voice(model_dir, "basso", default=True)
    with pytest.raises(CheckpointError, match="several default voices: alto, basso"):
        VoiceLibrary.load(model_dir, FAKE_INFO)


def test_shipped_pocket_voices_fit_the_pocket_codec():
    config, _ = read_codec(POCKET_DIR / "codec.safetensors")
    info = replace(FAKE_INFO, model="pocket", codebook_sizes=config.codebook_sizes)
    library = VoiceLibrary.load(POCKET_DIR, info)
    assert len(library.voices) >= 8
    assert library.default is not None
