# ruff: noqa: N802
# The fake has the names of NVML.
from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from backend.telemetry.nvml import GpuReading, GpuSampler

GIB = 1 << 30


class FakeNVMLError(Exception):
    pass


class FakeNvml:
    """A driver with ``num_cards`` cards; the calls named in ``unsupported`` fail."""

    NVMLError = FakeNVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(
        self,
        num_cards: int = 1,
        *,
        has_driver: bool = True,
        unsupported: tuple[str, ...] = (),
        processes: list[tuple[int, int | None]] | None = None,
    ) -> None:
        self.num_cards = num_cards
        self.has_driver = has_driver
        self.unsupported = unsupported
        self.processes = processes or []
        self.num_open = 0

    def nvmlInit(self) -> None:
        if not self.has_driver:
            raise FakeNVMLError("NVML Shared Library Not Found")
        self.num_open += 1

    def nvmlShutdown(self) -> None:
        self.num_open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index >= self.num_cards:
            raise FakeNVMLError("Invalid Argument")
        return f"card {index}"

    def _tell(self, name: str, value: Any) -> Any:
        if name in self.unsupported:
            raise FakeNVMLError("Not Supported")
        return value

    def nvmlDeviceGetName(self, handle: str) -> str | bytes:
        return self._tell("name", b"Test Card")

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return self._tell("utilization", SimpleNamespace(gpu=37, memory=12))

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return self._tell("memory", SimpleNamespace(used=3 * GIB, total=24 * GIB))

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return self._tell("power", 71_250)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._tell("temperature", 55)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        listed = [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes]
        return self._tell("processes", listed)


def reading(fake: FakeNvml, index: int = 0) -> GpuReading:
    sampler = GpuSampler(index, nvml=fake, watched_pids=lambda: frozenset({10, 11}))
    sampler.open()
    return sampler.read()


def test_a_card_is_read_in_plain_units() -> None:
    assert reading(FakeNvml(processes=[(10, GIB), (11, GIB), (99, 7 * GIB)])) == GpuReading(
        available=True,
        reason=None,
        name="Test Card",
        utilization_percent=37,
        memory_used_bytes=3 * GIB,
        memory_total_bytes=24 * GIB,
        process_memory_bytes=2 * GIB,
        power_w=71.25,
        temperature_c=55,
    )


def test_without_a_driver_everything_is_absent_with_the_reason() -> None:
    found = reading(FakeNvml(has_driver=False))
    assert not found.available
    assert found.reason == "NVML: NVML Shared Library Not Found"
    assert all(
        value is None
        for key, value in found.as_json().items()
        if key not in ("available", "reason")
    )


def test_a_card_that_does_not_exist_is_absent_with_the_reason() -> None:
    found = reading(FakeNvml(num_cards=1), index=3)
    assert not found.available
    assert found.reason == "NVML: Invalid Argument"


@pytest.mark.parametrize(
    ("unsupported", "fields"),
    [
        ("name", ["name"]),
        ("utilization", ["utilization_percent"]),
        ("memory", ["memory_used_bytes", "memory_total_bytes"]),
        ("power", ["power_w"]),
        ("temperature", ["temperature_c"]),
        ("processes", ["process_memory_bytes"]),
    ],
)
def test_one_unsupported_value_is_none_and_the_others_are_there(
    unsupported: str, fields: list[str]
) -> None:
    fake = FakeNvml(unsupported=(unsupported,), processes=[(10, GIB)])
    absent = [k for k, v in reading(fake).as_json().items() if v is None and k != "reason"]
    assert absent == fields


def test_windows_tells_no_memory_of_a_process() -> None:
    assert reading(FakeNvml(processes=[(10, None)])).process_memory_bytes is None


def test_a_process_that_is_not_listed_has_unknown_memory_and_not_zero() -> None:
    assert reading(FakeNvml(processes=[(99, GIB)])).process_memory_bytes is None


def test_before_opening_and_after_closing_nothing_is_available() -> None:
    fake = FakeNvml()
    sampler = GpuSampler(nvml=fake)
    assert sampler.read().reason == "the GPU sampler is not open"
    sampler.open()
    assert sampler.read().available
    sampler.close()
    sampler.close()
    assert fake.num_open == 0
    assert sampler.read().reason == "the GPU sampler is closed"


def test_a_sampler_that_found_no_card_lets_go_of_the_driver() -> None:
    fake = FakeNvml(num_cards=0)
    sampler = GpuSampler(nvml=fake)
    sampler.open()
    sampler.close()
    assert fake.num_open == 0


def test_the_reading_is_plain_json() -> None:
    plain = reading(FakeNvml()).as_json()
    assert json.loads(json.dumps(plain)) == plain


def test_the_real_library_has_every_call_that_the_fake_has() -> None:
    calls = [name for name in dir(FakeNvml) if name.startswith(("nvml", "NVML"))]
    assert len(calls) == 11
    for name in calls:
        assert hasattr(pynvml, name)


def test_the_real_library_is_either_readable_or_says_why_not() -> None:
    sampler = GpuSampler()
    sampler.open()
    found = sampler.read()
    sampler.close()
    assert found.available is (found.reason is None)
