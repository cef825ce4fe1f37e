"""The card, looked at twice a second: what it does now and what it has drawn for speech."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.telemetry.nvml import GpuReading

INTERVAL_S = 0.5


class EnergyMeter:
    """Add up energy from readings of power, over the time in which there is work.

    Any thread may call anything at any time.

    Attributes:
        joules: Drawn so far while there was work; None before the first reading of power.
    """

    def __init__(self) -> None:
        self.joules: float | None = None
        self._last: tuple[float, float] | None = None

    def note(self, at_s: float, power_w: float | None, *, is_busy: bool) -> None:
        """Take a reading.

        Args:
            at_s: When, on a clock that only goes forward.
            power_w: Drawn now; None when the driver does not tell.
            is_busy: Whether there was work since the last reading.
        """
        last, self._last = self._last, None if power_w is None else (at_s, power_w)
        if power_w is None:
            return
        if self.joules is None:
            self.joules = 0.0
        if last is not None and is_busy:
            self.joules += (at_s - last[0]) * (power_w + last[1]) / 2


class CardWatch:
    """Read a card from time to time, so that nobody has to wait for its driver.

    Life: ``start`` -> ``close``. Where there is no card, nothing runs and nothing is known.

    Args:
        read: Takes a reading; may block for milliseconds.
        is_busy: Whether there is work now.
        interval_s: Time between readings.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        read: Callable[[], GpuReading],
        is_busy: Callable[[], bool],
        *,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._is_busy = is_busy
        self._interval_s = interval_s
        self._clock = clock
        self._energy = EnergyMeter()
        self._latest: GpuReading | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def latest(self) -> GpuReading | None:
        """The last reading; None where there is no card."""
        return self._latest

    @property
    def joules(self) -> float | None:
        """Drawn while there was work; None where the driver does not tell."""
        return self._energy.joules

    def start(self) -> None:
        """Begin, if there is a card. Blocks for one reading."""
        if not self._read().available:
            return
        self.look()
        self._thread = threading.Thread(target=self._run, name="card-watch", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Take one reading."""
        reading = self._read()
        self._latest = reading if reading.available else None
        self._energy.note(self._clock(), reading.power_w, is_busy=self._is_busy())

    def close(self) -> None:
        """Stop. May be called more than once."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.look()
