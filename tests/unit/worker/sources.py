"""Engines for tests of the worker, made from values, so that another process can make them too."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.core.contract import Engine
from backend.core.errors import CheckpointError
from backend.core.types import SamplingParams, Turn
from backend.serving.scheduler import Scheduler
from backend.telemetry.logs import setup_logging
from tests.unit.serving.scripted_engine import ScriptedEngine

DIED_WITH = 9


class AcceleratorError(RuntimeError):
    """Named as torch names what the driver reports."""


@dataclass(frozen=True)
class ScriptedSource:
    """Fulfills ``EngineSource``.

    Attributes:
        folder: Where every life leaves a file ``life-N`` when it begins to load.
        plan: What each life's loading does: ``ok``, ``die``, ``hang``, ``bad`` (final) or
            ``error``; the last one holds for all further lives.
        num_slots: Of the engine.
    """

    folder: Path
    plan: tuple[str, ...] = ("ok",)
    num_slots: int = 2

    @property
    def num_lives(self) -> int:
        """Loads that were begun."""
        return len(list(self.folder.glob("life-*")))

    def prepare_process(self) -> None:
        setup_logging("info", "text")

    def load(self) -> Engine:
        life = self.num_lives
        (self.folder / f"life-{life}").touch()
        match self.plan[min(life, len(self.plan) - 1)]:
            case "die":
                os._exit(DIED_WITH)
            case "hang":
                threading.Event().wait()
            case "bad":
                raise CheckpointError("codec.pth is missing")
            case "error":
                raise MemoryError("too big")
        return ObedientEngine(max_slots=self.num_slots, folder=self.folder)

    def make_scheduler(self, engine: Engine) -> Scheduler:
        return Scheduler(engine, 8, 4)


@dataclass(frozen=True)
class HeldSource:
    """An engine that the test holds, for a thread only. Loads when ``gate`` is open."""

    engine: ScriptedEngine
    gate: threading.Event | None = None

    def prepare_process(self) -> None:
        raise AssertionError("a thread is no process")

    def load(self) -> Engine:
        if self.gate is not None:
            self.gate.wait()
        return self.engine

    def make_scheduler(self, engine: Engine) -> Scheduler:
        return Scheduler(engine, 8, 4)


@dataclass
class ObedientEngine(ScriptedEngine):
    """Does what a text says when it is prefilled: ``die``, ``hang``, ``fault``, ``odd``.

    With ``once`` after it only the first engine does; later ones say five frames.
    """

    folder: Path = Path()

    def prefill(self, text: str, turns: Sequence[Turn], sampling: SamplingParams) -> int:
        order, *once = text.split()
        if once:
            marker = self.folder / order
            if marker.exists():
                return super().prefill("5", turns, sampling)
            marker.touch()
        match order:
            case "die":
                os._exit(DIED_WITH)
            case "hang":
                (self.folder / "hangs").touch()
                threading.Event().wait()
            case "fault":
                raise AcceleratorError("the driver gave up")
        return super().prefill(text, turns, sampling)

    def encode_reference(self, samples: np.ndarray) -> np.ndarray:
        if not len(samples):
            raise ZeroDivisionError("nothing to encode")
        return super().encode_reference(samples)
