# ruff: noqa: N802
# The names of NVML are its own.

"""Readings of an NVIDIA card through NVML; all absent, with a reason, where there is none."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import pynvml  # pyright: ignore[reportMissingTypeStubs]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Value = TypeVar("_Value")


class NvmlModule(Protocol):
    """The part of ``pynvml`` that is used; tests pass a fake."""

    @property
    def NVMLError(self) -> type[Exception]:
        """Base of everything the calls raise."""
        ...

    @property
    def NVML_TEMPERATURE_GPU(self) -> int:
        """The sensor of the chip."""
        ...

    def nvmlInit(self) -> None:
        """Load the driver's library."""
        ...

    def nvmlShutdown(self) -> None:
        """Undo one ``nvmlInit``."""
        ...

    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Any:
        """Find a card."""
        ...

    def nvmlDeviceGetName(self, handle: Any, /) -> str | bytes:
        """Product name; bytes in older versions of the binding."""
        ...

    def nvmlDeviceGetUtilizationRates(self, handle: Any, /) -> Any:
        """``gpu`` in percent."""
        ...

    def nvmlDeviceGetMemoryInfo(self, handle: Any, /) -> Any:
        """``used`` and ``total`` in bytes."""
        ...

    def nvmlDeviceGetPowerUsage(self, handle: Any, /) -> int:
        """In milliwatts."""
        ...

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int, /) -> int:
        """In degrees Celsius."""
        ...

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any, /) -> Sequence[Any]:
        """``pid`` and ``usedGpuMemory`` (bytes or None) of each process."""
        ...


@dataclass(frozen=True, slots=True)
class GpuReading:
    """A card as it is now. A value the driver does not tell is None.

    Attributes:
        available: There is a driver and a card with this index.
        reason: Why not, when it is not available.
        name: Product name.
        utilization_percent: Share of the last sample period in which a kernel ran, 0..100.
        memory_used_bytes: By all programs.
        memory_total_bytes: Of the card.
        process_memory_bytes: By the watched processes; Windows (WDDM) never tells.
        power_w: Drawn now.
        temperature_c: Of the chip.
    """

    available: bool
    reason: str | None = None
    name: str | None = None
    utilization_percent: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    process_memory_bytes: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Give the reading as plain JSON values."""
        return asdict(self)


class GpuSampler:
    """Read one card on request.

    Life: ``open`` -> ``read`` any number of times -> ``close``. ``read`` before ``open`` or after
    ``close`` says that nothing is available. NVML's own calls are thread-safe.

    Args:
        index: NVML's number of the card. It counts all cards of the machine, whatever
            ``CUDA_VISIBLE_DEVICES`` hides.
        nvml: ``pynvml`` or a fake.
        watched_pids: Whose memory ``process_memory_bytes`` adds up; by default this process.
    """

    def __init__(
        self,
        index: int = 0,
        *,
        nvml: NvmlModule | None = None,
        watched_pids: Callable[[], frozenset[int]] | None = None,
    ) -> None:
        self._index = index
        self._nvml = nvml if nvml is not None else cast("NvmlModule", pynvml)
        self._watched_pids = watched_pids or (lambda: frozenset({os.getpid()}))
        self._handle: Any = None
        self._is_initialized = False
        self._reason = "the GPU sampler is not open"

    def open(self) -> None:
        """Find the driver and the card. Does not raise: ``read`` tells what is missing."""
        nvml = self._nvml
        try:
            nvml.nvmlInit()
            self._is_initialized = True
            self._handle = nvml.nvmlDeviceGetHandleByIndex(self._index)
        except nvml.NVMLError as error:
            self._reason = f"NVML: {error}"

    def read(self) -> GpuReading:
        """Take a reading."""
        handle, nvml = self._handle, self._nvml
        if handle is None:
            return GpuReading(available=False, reason=self._reason)
        name = self._ask(lambda: nvml.nvmlDeviceGetName(handle))
        rates = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        milliwatts = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return GpuReading(
            available=True,
            name=name.decode() if isinstance(name, bytes) else name,
            utilization_percent=rates.gpu if rates is not None else None,
            memory_used_bytes=memory.used if memory is not None else None,
            memory_total_bytes=memory.total if memory is not None else None,
            process_memory_bytes=self._process_memory_bytes(handle),
            power_w=milliwatts / 1000 if milliwatts is not None else None,
            temperature_c=self._ask(
                lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            ),
        )

    def close(self) -> None:
        """Let go of the driver. May be called more than once."""
        if self._is_initialized:
            self._is_initialized = False
            self._handle = None
            self._reason = "the GPU sampler is closed"
            self._ask(self._nvml.nvmlShutdown)

    def _ask(self, question: Callable[[], _Value]) -> _Value | None:
        """Ask the driver for one thing; older cards and drivers lack some of them."""
        try:
            return question()
        except self._nvml.NVMLError:
            return None

    def _process_memory_bytes(self, handle: Any) -> int | None:
        processes = self._ask(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        pids = self._watched_pids()
        known = [p.usedGpuMemory for p in processes or () if p.pid in pids]
        # Not in the list: another process namespace (a container), or no CUDA context yet.
        return sum(known) if known and None not in known else None
