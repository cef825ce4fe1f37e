"""A small phone recognizer, trained in a minute on the synthesizer's own labels.

The codec's refinement asks it whether decoded speech is still understood: it reads the phones of
the decoded samples, and its inner features there are compared with those of the source. It is
frozen then, and it is not shipped.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.pocket.codec_losses import mel_bank
from scripts.pocket.flite import PHONES
from scripts.pocket.render import LABEL_HOP, RATE_HZ

if TYPE_CHECKING:
    from scripts.pocket.speech_store import SpeechStore

_WINDOW, _BANDS = 512, 40
_CROP_LABELS = 200


class _Block(nn.Module):
    """Dilated convolution over time beside an identity."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.wide = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.last = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, T]`` in and out."""
        return x + self.last(F.gelu(self.wide(self.norm(x))))


class PhoneEar(nn.Module):
    """Log-mel frames, one per phone label, through convolutions over 0.4 s to phones.

    Each band's mean over time is removed first: neither level nor timbre counts.
    """

    taper: Tensor
    bank: Tensor

    def __init__(self, channels: int = 192) -> None:
        super().__init__()
        self.register_buffer("taper", torch.hann_window(_WINDOW), persistent=False)
        bank = mel_bank(RATE_HZ, _WINDOW, _BANDS)
        self.register_buffer("bank", bank, persistent=False)
        self.first = nn.Conv1d(len(bank), channels, 5, padding=2)
        self.blocks = nn.ModuleList(_Block(channels, dilation) for dilation in (1, 2, 4, 8))
        self.norm = nn.GroupNorm(8, channels)
        self.last = nn.Conv1d(channels, len(PHONES), 1)

    def frames(self, x: Tensor) -> Tensor:
        """Samples ``[B, S]`` float32 to mean-free log-mel frames ``[B, bands, S / 160]``."""
        side = (_WINDOW - LABEL_HOP) // 2
        spectrum = torch.stft(
            F.pad(x, (side, side)), _WINDOW, LABEL_HOP, _WINDOW, self.taper, center=False,
            return_complex=True,
        )  # fmt: skip
        power = torch.view_as_real(spectrum).square().sum(-1)
        mel = (self.bank @ power + 1e-4).log()
        return mel - mel.mean(-1, keepdim=True)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Samples ``[B, S]`` to phone logits ``[B, phones, S / 160]`` and inner features."""
        h = self.first(self.frames(x))
        features = [h]
        for block in self.blocks:
            h = block(h)
            features.append(h)
        return self.last(F.gelu(self.norm(h))), features

    @torch.no_grad()
    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        """Share of the labels ``[B, T]`` heard right in ``[B, S]``."""
        return float((self(x)[0].argmax(1) == labels).float().mean())


def ear_loss(ear: PhoneEar, made: Tensor, real: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How badly the frozen ear reads ``labels`` in ``made``, and how differently it hears both.

    Args:
        ear: a trained one.
        made: ``[B, S]`` float32 decoded samples.
        real: the same as spoken.
        labels: ``[B, S / 160]``.
    """
    with torch.no_grad():
        _, wanted = ear(real)
    logits, heard = ear(made)
    distances = [
        (a - b).abs().mean() / (b.abs().mean() + 1e-3) for a, b in zip(heard, wanted, strict=True)
    ]
    return F.cross_entropy(logits, labels), torch.stack(distances).mean()


def train_ear(
    store: SpeechStore, device: torch.device, seconds: float, batch: int = 48
) -> PhoneEar:
    """Train an ear on random crops for a time; noise up to 15 dB under the speech is added."""
    ear = PhoneEar().to(device)
    optimizer = torch.optim.AdamW(ear.parameters(), 2e-3, weight_decay=1e-2)
    began, step, loss = time.perf_counter(), 0, torch.zeros(())
    while (share := (time.perf_counter() - began) / seconds) < 1.0:
        rate = 2e-3 * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * share))
        optimizer.param_groups[0]["lr"] = rate
        samples, labels = store.crops(batch, _CROP_LABELS)
        x = samples[:, 0]
        level = x.square().mean(1, keepdim=True).sqrt()
        x = x + torch.randn_like(x) * level * torch.rand_like(level).square() * 0.18
        loss = F.cross_entropy(ear(x)[0], labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 20 == 0 and device.type == "cuda":
            torch.cuda.synchronize()
    if not loss.isfinite():
        raise RuntimeError(f"the ear's loss is not finite after {step} steps")
    print(f"ear: {step} steps, last loss {loss.item():.3f}", flush=True)
    return ear.eval().requires_grad_(False)
