"""Weights that wait in the host and come to the card a layer at a time, while it computes.

For a network that is needed now and then and is larger than the room it may take: only the layer
that runs is on the card. The bus is the price: S1-mini's encoder is 0.8 GB, for every chunk anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SMALLEST_STREAMED_BYTES = 1 << 20
"""Smaller layers stay on the card: their copies would cost more than their room."""


@dataclass(frozen=True, slots=True)
class _Weight:
    """One parameter of a streamed layer.

    Attributes:
        owner: The module that reads it.
        name: As which.
        on_host: Its values.
    """

    owner: nn.Module
    name: str
    on_host: Tensor

    def pinned(self) -> _Weight:
        """The same in page-locked memory, from which a card fetches several times as fast."""
        weight = _Weight(self.owner, self.name, self.on_host.detach().pin_memory())
        weight.put(weight.on_host)
        return weight

    def put(self, value: Tensor) -> None:
        # past the setter of nn.Module, which wants a Parameter
        self.owner._parameters[self.name] = value  # type: ignore[assignment]


def stream_from_host(
    network: nn.Module, layers: tuple[type[nn.Module], ...], device: torch.device
) -> int:
    """Let a network on the host compute on ``device``.

    Args:
        network: Its parameters are on the CPU.
        layers: Classes whose instances come one by one; none of them is inside another, and their
            parameters are read in their ``forward`` alone. All else moves to ``device``.
        device: Where the inputs will be.

    Returns:
        Bytes that stay on ``device``.
    """
    streamed: set[int] = set()
    for module in list(network.modules()):
        if isinstance(module, layers) and _num_bytes(module) >= SMALLEST_STREAMED_BYTES:
            weights = [
                weight.pinned() if device.type == "cuda" else weight
                for weight in _weights_of(module)
            ]
            streamed.update(id(weight.on_host) for weight in weights)
            _stream(module, weights, device)
    resident = 0
    for weight in _weights_of(network):
        if id(weight.on_host) not in streamed:
            weight.put(nn.Parameter(weight.on_host.to(device), requires_grad=False))
            resident += weight.on_host.numel() * weight.on_host.element_size()
    return resident


def _stream(layer: nn.Module, weights: list[_Weight], device: torch.device) -> None:
    def fetch(module: nn.Module, inputs: object) -> None:
        del module, inputs
        for weight in weights:
            weight.put(weight.on_host.to(device, non_blocking=True))

    def drop(module: nn.Module, inputs: object, outputs: object) -> None:
        del module, inputs, outputs
        for weight in weights:
            weight.put(weight.on_host)

    layer.register_forward_pre_hook(fetch)
    layer.register_forward_hook(drop, always_call=True)


def _weights_of(network: nn.Module) -> list[_Weight]:
    return [
        _Weight(owner, name, value)
        for owner in network.modules()
        for name, value in owner._parameters.items()
        if value is not None
    ]


def _num_bytes(module: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in module.parameters())
