"""The arithmetic of the load test: the clock of a player, and percentiles."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest

from scripts.load.asks import NAMED, NEW, REPEATED, Asks, make_recording
from scripts.load.figures import level_figures, percentile, spread
from scripts.load.listener import Budget, Outcome
from scripts.load.playback import Playback
from scripts.load.plot import svg_of
from scripts.load_test import table_of

RATE_HZ = 1000
SECOND = 2 * RATE_HZ  # bytes


def test_sound_that_comes_in_time_has_no_gap():
    playback = Playback(RATE_HZ)
    playback.feed(5.0, SECOND)
    playback.feed(6.0, SECOND)  # just in time
    playback.feed(6.5, SECOND)
    playback.finish(6.6)
    assert (playback.first_at, playback.started_at, playback.dry_at) == (5.0, 5.0, 8.0)
    assert (playback.audio_s, playback.underruns, playback.gap_s) == (3.0, 0, 0.0)


def test_an_underrun_delays_everything_after_it():
    playback = Playback(RATE_HZ)
    playback.feed(0.0, SECOND)
    playback.feed(1.25, SECOND)  # dry since 1.0
    playback.feed(2.0, SECOND)  # in time: the second one sounds until 2.25
    playback.feed(4.25, SECOND)  # dry since 3.25
    assert playback.gaps_s == [0.25, 1.0]
    assert playback.gap_s == 1.25
    assert playback.dry_at == 5.25


def test_the_end_is_no_underrun():
    playback = Playback(RATE_HZ)
    playback.feed(0.0, SECOND)
    playback.finish(9.0)
    assert playback.underruns == 0
    assert playback.dry_at == 1.0


def test_a_prebuffer_starts_later_and_runs_dry_later():
    playback = Playback(RATE_HZ, prebuffer_s=1.5)
    playback.feed(0.0, SECOND)
    assert playback.started_at is None
    playback.feed(1.25, SECOND)  # would have been an underrun without it
    assert (playback.first_at, playback.started_at, playback.dry_at) == (0.0, 1.25, 3.25)
    assert playback.underruns == 0


def test_a_sound_shorter_than_the_prebuffer_is_played_at_the_end():
    playback = Playback(RATE_HZ, prebuffer_s=5.0)
    playback.feed(0.0, SECOND)
    playback.finish(2.0)
    assert (playback.started_at, playback.dry_at) == (2.0, 3.0)


def test_half_a_sample_waits_for_its_other_half():
    playback = Playback(RATE_HZ)
    playback.feed(0.0, 1)
    assert playback.first_at is None
    playback.feed(1.0, 2 * RATE_HZ)
    assert playback.first_at == 1.0
    assert playback.audio_s == 1.0
    playback.feed(1.5, 1)
    assert playback.audio_s == 1.001


@pytest.mark.parametrize("percent", [0, 1, 50, 95, 99, 100])
def test_percentiles_are_those_of_numpy(percent: int):
    values = list(np.random.default_rng(1).exponential(size=37))
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))


def test_a_percentile_of_nothing_is_refused_and_a_spread_of_nothing_says_so():
    with pytest.raises(ValueError, match="at least one"):
        percentile([], 50)
    assert spread([]) == {
        "count": 0, "min": None, "p50": None, "p95": None, "p99": None, "max": None
    }  # fmt: skip


def heard(kind: str, ttfa_s: float, *gaps_s: float) -> Outcome:
    return Outcome(kind, Playback(RATE_HZ, audio_s=2.0, gaps_s=list(gaps_s)), ttfa_s)


def test_the_figures_of_a_level():
    outcomes = [
        heard(NAMED, 0.1),
        heard(NAMED, 0.3, 0.5, 0.25),
        heard(NEW, 0.9),
        Outcome(NAMED, Playback(RATE_HZ), error="status 429"),
        Outcome(NEW, Playback(RATE_HZ, audio_s=1.0), 0.01, error="ReadError"),
    ]
    figures = level_figures(3, outcomes, wall_s=2.0)
    assert (figures["requests"], figures["completed"]) == (5, 3)
    assert figures["errors"] == {"status 429": 1, "ReadError": 1}
    assert figures["audio_s_per_s"] == 3.5  # what a broken stream brought was heard as well
    assert figures["ttfa_s"]["p50"] == 0.3
    assert figures["ttfa_s_by_voice"][NEW]["p99"] == 0.9
    assert set(figures["ttfa_s_by_voice"]) == {NAMED, NEW}
    assert (figures["underruns"], figures["streams_with_underruns"]) == (2, 1)
    assert (figures["gap_s"], figures["gaps_s"]["max"]) == (0.75, 0.5)
    assert "2 x" not in table_of([figures])
    assert "1 x status 429" in table_of([figures])
    assert "300" in table_of([figures])
    drawn = svg_of([figures], "a < b")
    by_case = svg_of([{**figures, "case": "8 at once"}], "a")
    assert "8 at once" in by_case
    assert "polyline" in drawn
    assert "polyline" not in by_case
    assert "a &lt; b" in drawn
    assert drawn.count("<circle") == 5


def test_texts_are_unique_and_kinds_have_their_shares():
    asks = Asks(["kit", "ross"], new_share=0.25, repeated_share=0.25, recording_s=0.1)
    row = [asks.next() for _ in range(200)]
    assert len({ask.text for ask in row}) == len({ask.seed for ask in row}) == 200
    named = [ask for ask in row if ask.kind == NAMED]
    assert {ask.voice for ask in named} == {"kit", "ross"}
    assert 70 < len(named) < 130
    assert len({ask.recording for ask in row if ask.kind == REPEATED}) == 1
    new = [ask.recording for ask in row if ask.kind == NEW]
    assert len(set(new)) == len(new) > 25
    again = Asks(["kit", "ross"], new_share=0.25, repeated_share=0.25, recording_s=0.1)
    assert [again.next() for _ in range(200)] == row


def test_a_recording_is_a_wav_file_of_the_asked_length_that_uses_its_range():
    with wave.open(io.BytesIO(make_recording(3, 1.5))) as file:
        assert file.getnframes() / file.getframerate() == 1.5
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert 16_000 < np.abs(samples).max() < 32_767


def test_a_budget_of_requests_is_spent_and_one_of_time_runs_out():
    budget = Budget(seconds=None, requests=2)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    assert not Budget(seconds=0.0, requests=None).take()
    assert Budget(seconds=1000.0, requests=None).take()
