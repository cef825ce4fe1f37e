"""Markers and the signal pieces of the renderer, measured on a synthetic voice."""

import random

import numpy as np
import pytest

from scripts.pocket.dsp import active_level_db, resample_shaped, sigh, to_level, whispered
from scripts.pocket.flite import Flite, FliteMissingError
from scripts.pocket.markers import MARKERS, NEUTRAL
from scripts.pocket.measure import measure_voice, timbre, timbre_distance
from scripts.pocket.render import LABEL_HOP, RATE_HZ, Renderer, parse_markers
from scripts.pocket.speakers import BUILT_IN_VOICES, draw_speakers, jittered


def voice(pitch_hz: float = 120.0, seconds: float = 1.0) -> np.ndarray:
    """A buzz with falling harmonics, as a voice has."""
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    tones = [np.sin(2 * np.pi * pitch_hz * k * time) / k for k in range(1, 30)]
    return (0.1 * np.sum(tones, 0)).astype(np.float32)


def parsed(text: str) -> list[tuple[str, str]]:
    names = {id(effect): name for name, effect in MARKERS.items()} | {id(NEUTRAL): "neutral"}
    return [(said, names[id(effect)]) for said, effect, _ in parse_markers(text, random.Random(1))]


def test_a_marker_colors_its_own_sentence_only():
    assert parsed("One. (sad) Two is sad. Three is not.") == [
        ("One.", "neutral"),
        ("Two is sad.", "sad"),
        ("Three is not.", "neutral"),
    ]


def test_a_pause_stands_after_what_it_follows():
    (first, _, pause_s), (second, _, none_s) = parse_markers("Wait... Now.", random.Random(1))
    assert (first, second, none_s) == ("Wait", "Now.", 0.0)
    assert 0.5 < pause_s < 0.8


def test_playing_faster_raises_the_pitch_and_shortens():
    x = voice(100)
    y = resample_shaped(x, 1.25, RATE_HZ, 0.0, ())
    assert len(y) == round(len(x) / 1.25)
    assert measure_voice(y).pitch_hz == pytest.approx(125, rel=0.02)


def test_tilt_brightens():
    x = voice()
    flat, bright = (resample_shaped(x, 1.0, RATE_HZ, tilt, ()) for tilt in (0.0, 6.0))
    assert measure_voice(bright).brightness_db > measure_voice(flat).brightness_db + 3


def test_a_whisper_has_no_pitch_and_the_same_length():
    x = voice()
    y = whispered(x, np.random.default_rng(0))
    assert len(y) == len(x)
    assert measure_voice(x).voiced > 0.9
    assert measure_voice(y).voiced < 0.2


def test_a_sigh_is_breath():
    x = sigh(RATE_HZ, -30.0, np.random.default_rng(0))
    assert 0.4 < len(x) / RATE_HZ < 0.7
    assert measure_voice(x).voiced < 0.2


def test_levels_are_met_and_peaks_stay_below_one():
    assert active_level_db(to_level(voice(), -25.0)) == pytest.approx(-25.0, abs=0.1)
    assert np.abs(to_level(voice(), 0.0)).max() < 1.0


@pytest.mark.parametrize("pitch_hz", [80.0, 125.0, 210.0, 300.0])
def test_the_pitch_of_a_voice_is_measured(pitch_hz):
    assert measure_voice(voice(pitch_hz)).pitch_hz == pytest.approx(pitch_hz, rel=0.02)


def test_the_longest_pause_is_measured():
    gap = np.zeros(int(0.6 * RATE_HZ), np.float32)
    x = np.concatenate([voice(), gap, voice()])
    assert measure_voice(x).longest_pause_s == pytest.approx(0.6, abs=0.06)


def test_silence_measures_as_nothing():
    assert measure_voice(np.zeros(RATE_HZ, np.float32)).duration_s == 0.0


def test_timbre_does_not_depend_on_the_level():
    hiss = np.random.default_rng(0).standard_normal(RATE_HZ).astype(np.float32)
    x = voice() + 0.003 * hiss
    dark = resample_shaped(x, 1.0, RATE_HZ, -8.0, ())
    assert timbre_distance(timbre(x), timbre(0.3 * x)) < 0.1
    assert timbre_distance(timbre(x), timbre(dark)) > 1.0


def test_drawn_speakers_begin_with_the_built_in_voices_and_repeat():
    drawn = draw_speakers(60, seed=4)
    assert drawn == draw_speakers(60, seed=4)
    assert drawn[: len(BUILT_IN_VOICES)] == [v.speaker for v in BUILT_IN_VOICES]
    assert len({v.name for v in BUILT_IN_VOICES}) == len(BUILT_IN_VOICES) >= 8
    assert jittered(drawn[0], random.Random(1)) != drawn[0]


def test_missing_synthesizer_libraries_are_named_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", _refuse)
    with pytest.raises(FliteMissingError, match=r"libflite\.so\.1.*libflite1"):
        Flite(tmp_path)


def _refuse(*_args: object, **_options: object) -> None:
    raise OSError("no such library")


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    try:
        return Renderer(Flite())
    except FliteMissingError as error:
        pytest.skip(str(error))


def test_speech_is_labeled_every_ten_milliseconds(renderer):
    said = renderer.render("Hello there.", BUILT_IN_VOICES[0].speaker, seed=1)
    assert len(said.samples) == LABEL_HOP * len(said.labels)
    assert said.labels[0] == said.labels[-1] == 0
    assert len(set(said.labels.tolist())) > 6


def test_the_timing_repeats_with_its_seed(renderer):
    first, same, other = (
        renderer.render("(whispering) Hello.", BUILT_IN_VOICES[1].speaker, seed).labels
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("marker", "measure", "way"),
    [
        ("whispering", "voiced", -1),
        ("shouting", "level_db", 1),
        ("soft tone", "level_db", -1),
        ("in a hurry tone", "duration_s", -1),
        ("sad", "pitch_hz", -1),
        ("excited", "pitch_hz", 1),
        ("angry", "brightness_db", 1),
        ("sighing", "voiced_at_start", -1),
    ],
)
def test_every_marker_is_audible_in_the_data(renderer, marker, measure, way):
    speaker, text = BUILT_IN_VOICES[1].speaker, "The old man sat on the bench and fed the birds."
    plain = renderer.render(text, speaker, seed=1, jitter=False).samples
    marked = renderer.render(f"({marker}) {text}", speaker, seed=1, jitter=False).samples
    before, after = (getattr(measure_voice(x), measure) for x in (plain, marked))
    assert (after - before) * way > 0
