"""How much of a prompt an engine has to read: what it keeps of earlier prompts it only copies.

The engine's own cache decides; here is a guess at what it holds, corrected by its counters. A wrong
guess costs one forecast.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.core.contract import Engine
    from backend.core.types import CacheCounters, SynthesisRequest

BYTES_PER_POSITION = 3
PREFIX_CACHE = "prefix_kv"
"""Name of the engine's cache of prompts; an engine without one reads everything."""


@dataclass(frozen=True, slots=True)
class PromptShape:
    """A prompt as far as its reading costs time.

    Attributes:
        num_text: Positions of the text to speak, estimated.
        num_turns: Positions of each turn, estimated.
        keys: Names of the prompt up to the end of each turn.
    """

    num_text: int
    num_turns: tuple[int, ...] = ()
    keys: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, request: SynthesisRequest) -> PromptShape:
        """Estimate without a tokenizer; costs are learnt on the same guess."""
        digest = hashlib.sha1(usedforsecurity=False)
        sizes: list[int] = []
        keys: list[bytes] = []
        for turn in request.turns:
            text = turn.text.encode()
            digest.update(len(text).to_bytes(8, "little") + text + turn.codes.tobytes())
            sizes.append(len(text) // BYTES_PER_POSITION + turn.codes.shape[1])
            keys.append(digest.digest())
        num_text = 1 + len(request.text.encode()) // BYTES_PER_POSITION
        return cls(num_text, tuple(sizes), tuple(keys))

    def num_read(self, num_new_turns: int) -> int:
        """Positions to be read if only the last turns are new."""
        first = len(self.num_turns) - num_new_turns
        return self.num_text + sum(self.num_turns[first:])


NO_PROMPT = PromptShape(1)


class KnownPrompts:
    """What an engine probably keeps. Confined to its thread.

    Args:
        engine: Its counters are read.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._num_missed = counters.misses if (counters := self._counters()) else 0

    def num_read(self, shape: PromptShape) -> int:
        """Expect how many positions are read."""
        return shape.num_read(len(shape.keys) - self._num_known(shape))

    def note(self, shapes: Sequence[PromptShape]) -> tuple[int, bool]:
        """Learn from prompts that were just read, together.

        Returns:
            The positions that were read as the engine counts, and whether it keeps new ones.
        """
        counters = self._counters()
        if counters is None:
            return sum(shape.num_read(len(shape.keys)) for shape in shapes), False
        num_new, self._num_missed = counters.misses - self._num_missed, counters.misses
        num_read = self._num_read_of(shapes, num_new)
        has_news = any(key not in self._known for shape in shapes for key in shape.keys)
        for shape in shapes:
            for key in shape.keys:
                self._known[key] = None
                self._known.move_to_end(key)
        while len(self._known) > counters.entries:  # the engine lets the same ones go
            self._known.popitem(last=False)
        return num_read, has_news

    def _num_read_of(self, shapes: Sequence[PromptShape], num_new: int) -> int:
        """Positions of prompts of which ``num_new`` turns in all had to be read."""
        if len(shapes) == 1:
            return shapes[0].num_read(min(len(shapes[0].keys), num_new))
        expected = sum(len(shape.keys) - self._num_known(shape) for shape in shapes)
        if num_new == expected:
            return sum(self.num_read(shape) for shape in shapes)
        num_turns = sum(len(shape.keys) for shape in shapes)
        in_turns = sum(sum(shape.num_turns) for shape in shapes)
        read = round(in_turns * min(1.0, num_new / num_turns)) if num_turns else 0
        return read + sum(shape.num_text for shape in shapes)

    def _num_known(self, shape: PromptShape) -> int:
        for idx, key in enumerate(shape.keys):
            if key not in self._known:
                return idx
        return len(shape.keys)

    def _counters(self) -> CacheCounters | None:
        return self._engine.cache_counters().get(PREFIX_CACHE)
