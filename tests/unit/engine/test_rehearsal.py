"""The figures that an engine gives about itself at its start."""

from __future__ import annotations

from backend.engine.rehearsal import BUDGET_S, Rehearsal
from tests.fakes import FakeEngine


class Ticking:
    """A clock that goes on whenever it is read."""

    def __init__(self, tick_s: float) -> None:
        self.now_s, self.tick_s = 0.0, tick_s

    def __call__(self) -> float:
        self.now_s += self.tick_s
        return self.now_s


def test_every_stage_is_timed_up_to_all_slots_and_the_slots_are_free_again():
    engine = FakeEngine(max_slots=8)
    timings = Rehearsal(engine, Ticking(0.001)).run()
    sizes = {stage: [t.size for t in timings if t.stage == stage] for stage in engine.verbs}
    assert sizes["decode_step"] == [1, 2, 4, 8]
    assert {1, 2, 4, 8, 64} <= set(sizes["decode_frames"])
    assert len(sizes["prefill"]) == 2
    assert len(timings) == len({(t.stage, t.size) for t in timings})
    assert all(t.seconds > 0 for t in timings)
    assert engine.used_slots == set()


def test_a_slow_machine_measures_fewer_sizes():
    engine = FakeEngine(max_slots=8)
    timings = Rehearsal(engine, Ticking(BUDGET_S / 20)).run()
    assert [t.size for t in timings if t.stage == "decode_step"] == []
    assert {t.size for t in timings if t.stage == "decode_frames"} == {1, 2, 4, 8}
    assert engine.used_slots == set()
