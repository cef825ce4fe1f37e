"""What passes between host and device in a decode step: slot numbers in, codes out.

Beside a card both ways lead through pinned memory. Slot numbers cross only when they change; codes,
whose first column tells which sequences end, are on their way while the host does its own part (a
fused step writes them into the host's memory itself), and an event tells when they are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class Exchange(Protocol):
    """The way between the host and the device that steps run on."""

    def slot_ids(self, slots: Sequence[int]) -> Tensor:
        """``[P]`` int64 on the device. The same tensor again as long as ``slots`` stay."""
        ...

    def send(self, codes: Tensor) -> None:
        """Start bringing the ``[n, K]`` int64 codes of a step to the host."""
        ...

    def receive(self, into: NDArray[np.int32]) -> None:
        """Wait for the codes sent last and write them into ``[n, K]``."""
        ...


class _Slots:
    """Slot numbers on the device, one tensor for each size of a batch."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[tuple[int, ...], Tensor]] = {}

    def find(self, slots: tuple[int, ...]) -> Tensor | None:
        known = self._known.get(len(slots))
        return known[1] if known is not None and known[0] == slots else None

    def keep(self, slots: tuple[int, ...], ids: Tensor) -> Tensor:
        self._known[len(slots)] = slots, ids
        return ids


class HostExchange:
    """Steps run on the host, too."""

    def __init__(self) -> None:
        self._slots = _Slots()
        self._codes: Tensor | None = None

    def slot_ids(self, slots: Sequence[int]) -> Tensor:
        """See ``Exchange``."""
        wanted = tuple(slots)
        known = self._slots.find(wanted)
        return self._slots.keep(wanted, torch.tensor(wanted)) if known is None else known

    def send(self, codes: Tensor) -> None:
        """See ``Exchange``."""
        self._codes = codes

    def receive(self, into: NDArray[np.int32]) -> None:
        """See ``Exchange``."""
        assert self._codes is not None
        into[:] = self._codes.numpy()


class CardExchange:
    """Steps run on a card, on the stream that is current in the engine's thread.

    Args:
        device: The card.
        landing: ``[P, K]`` int64, pinned: where codes of up to P rows arrive.
        is_landed: Whether the steps leave them there themselves.
    """

    def __init__(self, device: torch.device, landing: Tensor, *, is_landed: bool) -> None:
        self._device = device
        self._slots = _Slots()
        self._slots_on_host = torch.empty(landing.shape[0], dtype=torch.int64, pin_memory=True)
        self._landing, self._is_landed = landing, is_landed
        self._codes = landing.numpy()
        self._sent = torch.cuda.Event()
        self._num_rows = 0

    def slot_ids(self, slots: Sequence[int]) -> Tensor:
        """See ``Exchange``."""
        wanted = tuple(slots)
        known = self._slots.find(wanted)
        if known is not None:
            return known
        # the numbers before these were read before the codes behind them came back
        staged = self._slots_on_host[: len(wanted)]
        staged.numpy()[:] = wanted
        return self._slots.keep(wanted, staged.to(self._device, non_blocking=True))

    def send(self, codes: Tensor) -> None:
        """See ``Exchange``."""
        self._num_rows = codes.shape[0]
        if not self._is_landed:
            self._landing[: self._num_rows].copy_(codes, non_blocking=True)
        self._sent.record()

    def receive(self, into: NDArray[np.int32]) -> None:
        """See ``Exchange``."""
        self._sent.synchronize()
        into[:] = self._codes[: self._num_rows]


def exchange_with(device: torch.device, landing: Tensor, *, is_landed: bool) -> Exchange:
    """Choose the way to ``device``; for a card see ``CardExchange``."""
    if device.type == "cuda":
        return CardExchange(device, landing, is_landed=is_landed)
    return HostExchange()
