"""Draw one code of one sequence on the host: what ``sampling.sample_codes`` draws, in numpy.

On a CPU the logits are in the host's memory anyway, and a few numpy calls on some hundred numbers
cost less than as many tensor operations. Noise is made only for the codes that survive the cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backend.engine.noise import exponential_noise_on_host

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backend.engine.slots import SlotState

    Logits = NDArray[np.float32]
    Codes = NDArray[np.int64]

Index = np.intp


@dataclass(frozen=True, slots=True)
class HostSampling:
    """How the codes of one sequence's next frame are drawn.

    Attributes:
        temperature: Above 0.
        is_greedy: Take the likeliest code.
        top_p: ``NO_CUT`` keeps all.
        top_k: ``2 ** 62`` keeps all.
        penalty: Of codes that were drawn lately; 1 is off.
        window: Frames that count as lately.
        seed: As ``seed_word`` gives it.
        step: Steps made before.
        may_end: Whether the sequence may end in this step.
    """

    temperature: float
    is_greedy: bool
    top_p: float
    top_k: int
    penalty: float
    window: int
    seed: int
    step: int
    may_end: bool

    @property
    def has_penalty(self) -> bool:
        """Whether lately drawn codes become less likely."""
        return self.penalty != 1.0 and self.window > 0


class HostSlots:
    """A ``SlotState`` on a CPU, read and written without tensors.

    Attributes:
        pending: As in ``SlotState``, as an array in the same memory.
        recent: Likewise.
        steps: Likewise.
    """

    def __init__(self, state: SlotState) -> None:
        self.pending: Codes = state.pending.numpy()
        self.recent: Codes = state.recent.numpy()
        self.steps: Codes = state.steps.numpy()
        self._window: Codes = state.window.numpy()
        self._seeds: Codes = state.seeds.numpy()
        self._min_steps: Codes = state.min_steps.numpy()
        rows = state.sampling
        self._temperature = rows.temperature.numpy()
        self._greedy = rows.greedy.numpy()
        self._top_p = rows.top_p.numpy()
        self._top_k = rows.top_k.numpy()
        self._penalty = rows.repetition_penalty.numpy()

    def sampling(self, slot: int) -> HostSampling:
        """How a slot's next frame is drawn."""
        step = int(self.steps[slot])
        return HostSampling(
            temperature=float(self._temperature[slot]),
            is_greedy=bool(self._greedy[slot]),
            top_p=float(self._top_p[slot]),
            top_k=int(self._top_k[slot]),
            penalty=float(self._penalty[slot]),
            window=int(self._window[slot]),
            seed=int(self._seeds[slot]),
            step=step,
            may_end=step >= self._min_steps[slot],
        )


def draw_code(logits: Logits, how: HostSampling, recent: Codes, first_draw: int) -> int:
    """Draw one code.

    Args:
        logits: ``[N]`` float32. Those of recent codes are changed in place.
        how: Of this sequence.
        recent: ``[W]``, codes of this codebook in the last frames, newest last, -1 for none.
        first_draw: Which number of the step's noise belongs to code 0.
    """
    if how.has_penalty:
        _penalize(logits, how.penalty, recent[-how.window :])
    if how.is_greedy:
        return int(logits.argmax())
    kept = _likeliest(logits, how)
    if len(kept) == 1:
        return int(kept[0])
    values = logits[kept]
    weights = np.exp((values - values.max()) / np.float32(how.temperature))
    noise = exponential_noise_on_host(how.seed, how.step, kept + first_draw)
    return int(kept[(weights / noise).argmax()])


def _penalize(logits: Logits, penalty: float, recent: Codes) -> None:
    """See ``sampling.penalize_repetition``."""
    codes = np.unique(recent[recent >= 0])
    values, factor = logits[codes], np.float32(penalty)
    logits[codes] = np.where(values < 0, values * factor, values / factor)


def _likeliest(logits: Logits, how: HostSampling) -> NDArray[Index]:
    """Codes that survive the cut, rising; see ``sampling.keep_likeliest``."""
    num_codes = len(logits)
    if how.top_p > 1.0 and how.top_k >= num_codes:
        return np.arange(num_codes)
    ordered = np.sort(logits)[::-1]
    if not math.isfinite(ordered[0]):  # nothing to choose by
        return np.array([logits.argmax()])
    running = np.exp(ordered - ordered[0]).cumsum(dtype=np.float64)
    # the code that crosses top-p goes too, but for the likeliest
    num_kept = int(running.searchsorted(how.top_p * running[-1], side="right"))
    num_kept = max(1, min(num_kept, how.top_k, num_codes))
    if num_kept == 1:
        return np.array([logits.argmax()])
    kept = np.flatnonzero(logits >= ordered[num_kept - 1])
    if len(kept) == num_kept:
        return kept
    # equal logits straddle the cut: the sort is stable, so the codes that come first stay
    order = np.argsort(-logits, kind="stable")[:num_kept]
    return np.sort(order)
