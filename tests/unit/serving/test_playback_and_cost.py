"""The playback clock and the learnt costs."""

from __future__ import annotations

import pytest

from backend.core.contract import StageTiming
from backend.serving.cost_model import CostCurve, CostModel
from backend.serving.playback import PlaybackClock


def test_a_buffer_is_what_was_sent_less_what_was_played():
    clock = PlaybackClock(frame_s=0.5)
    assert clock.buffer_s(3.0) == 0
    clock.send(4, 3.0, has_taken_all=True)
    assert clock.buffer_s(4.5) == 0.5
    assert clock.lead_s(4.5, num_made=3) == 2.0


def test_a_gap_is_counted_once_and_not_made_up_for():
    clock = PlaybackClock(frame_s=0.5)
    clock.send(1, 0.0, has_taken_all=True)
    assert clock.send(1, 0.8, has_taken_all=True)
    assert not clock.send(1, 1.0, has_taken_all=True)
    assert (clock.num_underruns, clock.dry_s) == (1, pytest.approx(0.3))
    assert clock.dry_at == pytest.approx(0.8 + 2 * 0.5)


def test_a_listener_that_takes_nothing_is_late_itself():
    clock = PlaybackClock(frame_s=0.5)
    clock.send(1, 0.0, has_taken_all=True)
    assert not clock.send(1, 9.0, has_taken_all=False)
    assert clock.num_underruns == 0
    assert clock.buffer_s(9.0) == 0.5


def test_a_stretch_begins_with_what_is_left_of_the_one_before():
    assert PlaybackClock(0.5, now=7.0, buffered_s=2.0).buffer_s(8.0) == 1.0
    assert PlaybackClock(0.5, now=7.0, buffered_s=0.0).dry_at is None


def test_costs_are_interpolated_and_grow_beyond_what_is_known():
    curve = CostCurve()
    assert curve.predict(10) == 0
    assert not curve.is_known
    curve.observe(8, 0.008)
    assert curve.predict(2) == 0.008
    assert curve.predict(16) == pytest.approx(0.016)
    curve.observe(32, 0.014)
    assert curve.predict(20) == pytest.approx(0.011)
    assert curve.predict(64) == pytest.approx(0.022)
    assert curve.least_rate(1.0) == pytest.approx(0.014 / 32)
    assert curve.least_rate(0.01) == pytest.approx(0.008 / 8)  # 32 are too many for one call
    assert curve.least_rate(0.001) == pytest.approx(0.008 / 8)


def test_dearer_readings_count_at_once_and_a_hiccup_only_in_part():
    curve = CostCurve()
    curve.observe(8, 1.0)
    curve.observe(8, 0.5)
    assert 0.9 < curve.predict(8) < 1.0
    curve.observe(8, 1000.0)
    assert 1.5 < curve.predict(8) < 2.5
    for _ in range(200):
        curve.observe(8, 0.5)
    assert curve.predict(8) == pytest.approx(0.5, rel=0.01)


def test_a_cold_first_reading_is_forgotten_and_an_odd_new_size_is_bounded():
    curve = CostCurve()
    curve.observe(8, 1.0)  # a kernel was compiled, say
    curve.observe(8, 0.01)
    assert curve.predict(8) == pytest.approx(0.01)
    curve.observe(16, 5.0)
    assert curve.predict(16) <= 0.1
    for _ in range(6):
        curve.observe(8, 0.01)
    curve.observe(8, 0.001)  # later a single cheap one counts little
    assert curve.predict(8) > 0.009


@pytest.mark.parametrize(
    ("step_s", "codec_s", "frames"), [(0.01, 0.01, 1), (0.03, 0.03, 4), (0.035, 0.1, 8), (1, 1, 8)]
)
def test_a_first_chunk_lasts_until_the_next_is_made(step_s: float, codec_s: float, frames: int):
    model = CostModel(0.05)
    model.step.observe(1, step_s)
    for size in (1, 8):
        model.codec.observe(size, codec_s)
    assert model.first_frames(1) == frames


def test_a_warm_up_teaches_the_model():
    model = CostModel(
        0.05,
        [
            StageTiming("prefill", 100, 0.02),
            StageTiming("decode_step", 4, 0.01),
            StageTiming("decode_frames", 4, 0.004),
        ],
    )
    assert model.prefill.predict(50) == 0.02
    assert model.round_s(4) == pytest.approx(0.014)
    assert model.sustained_s(8) == pytest.approx(0.02 + 8 * 0.001)


def test_the_length_of_speech_is_learnt():
    model = CostModel(0.05)
    for _ in range(100):
        model.note_spoken(num_chars=100, num_frames=300)
    model.note_spoken(num_chars=0, num_frames=5)
    assert model.frames_per_char == pytest.approx(3.0, rel=0.01)
