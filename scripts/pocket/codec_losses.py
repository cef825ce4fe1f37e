"""What the codec is trained on: spectra, pitch classes, discriminators."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.pocket.render import RATE_HZ

NUM_PITCH_CLASSES = 64  # 0 is unvoiced, the others are log-spaced
PITCH_HZ = (60.0, 420.0)
PITCH_HOP = 320
_PITCH_WINDOW = 1024
# Window and number of mel bands; window and highest frequency of the plain magnitudes.
_MEL_WINDOWS = ((128, 10), (256, 20), (512, 40), (1024, 80), (2048, 128))
_MAGNITUDE_WINDOWS = ((512, 8000.0), (1024, 8000.0), (2048, 4000.0))
_FLOOR = 1e-5  # per window sample: about -63 dBFS of noise, what is under it is inaudible


def mel_bank(rate_hz: int, window: int, bands: int) -> Tensor:
    """Triangular mel filters ``[bands, window / 2 + 1]``, each of unit sum."""
    top = 2595 * np.log10(1 + rate_hz / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    frequency = np.linspace(0, rate_hz / 2, window // 2 + 1)
    rising = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.maximum(0, np.minimum(rising, falling))
    bank = bank[bank.sum(1) > 0]
    return torch.tensor(bank / bank.sum(1, keepdims=True), dtype=torch.float32)


class SpectralLoss(nn.Module):
    """Distance of two signals: log-mel at five resolutions, magnitudes at three."""

    def __init__(self) -> None:
        super().__init__()
        for window in sorted({w for w, _ in (*_MEL_WINDOWS, *_MAGNITUDE_WINDOWS)}):
            self.register_buffer(f"window{window}", torch.hann_window(window), persistent=False)
        for window, bands in _MEL_WINDOWS:
            bank = mel_bank(RATE_HZ, window, bands)
            self.register_buffer(f"bank{window}", bank, persistent=False)

    def _magnitudes(self, x: Tensor, window: int) -> Tensor:
        taper = self.get_buffer(f"window{window}")
        spectrum = torch.stft(x, window, window // 4, window, taper, return_complex=True)
        # Not abs(): its gradient is not defined at the zeros that silence gives.
        power = torch.view_as_real(spectrum).square().sum(-1)
        return (power + 1e-10).sqrt()

    def forward(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, S]`` float32 each -> mel loss, magnitude loss."""
        pairs = {
            window: (self._magnitudes(made, window), self._magnitudes(real, window))
            for window in sorted({w for w, _ in (*_MEL_WINDOWS, *_MAGNITUDE_WINDOWS)})
        }
        mel, magnitude = made.new_zeros(()), made.new_zeros(())
        for window, _ in _MEL_WINDOWS:
            bank = self.get_buffer(f"bank{window}")
            a, b = ((bank @ part).clamp(min=_FLOOR * window).log10() for part in pairs[window])
            mel = mel + (a - b).abs().mean() / len(_MEL_WINDOWS)
        for window, top_hz in _MAGNITUDE_WINDOWS:
            bins = int(top_hz / RATE_HZ * window)
            # Square roots: between linear (only the loudest counts) and log (noise counts).
            a, b = (part[:, :bins].sqrt() for part in pairs[window])
            relative = (a - b).abs().mean((1, 2)) / (b.mean((1, 2)) + 0.02)
            magnitude = magnitude + relative.mean() / len(_MAGNITUDE_WINDOWS)
        return mel, magnitude


@torch.no_grad()
def pitch_classes(x: Tensor) -> Tensor:
    """Pitch of ``[B, 1, S]`` as classes ``[B, S / 320]``, by normalized autocorrelation."""
    count = x.shape[-1] // PITCH_HOP
    padded = F.pad(x[:, 0], ((_PITCH_WINDOW - PITCH_HOP) // 2, _PITCH_WINDOW))
    taper = torch.hann_window(_PITCH_WINDOW, device=x.device)
    frames = padded.unfold(-1, _PITCH_WINDOW, PITCH_HOP)[:, :count] * taper
    own = torch.fft.irfft(torch.fft.rfft(taper, 2 * _PITCH_WINDOW).abs().square())[:300]
    power = torch.fft.rfft(frames, 2 * _PITCH_WINDOW).abs().square()
    r = torch.fft.irfft(power)[..., :300]
    r = (r / r[..., :1].clamp(min=1e-6)) / (own / own[0])
    low, high = int(RATE_HZ / PITCH_HZ[1]), int(RATE_HZ / PITCH_HZ[0])
    inner, before, after = r[..., low:high], r[..., low - 1 : high - 1], r[..., low + 1 : high + 1]
    top = inner.amax(-1, keepdim=True)
    # The first peak that is nearly the highest: a later one is a multiple of the period.
    is_peak = (inner >= 0.93 * top) & (inner >= before) & (inner >= after)
    lag = (is_peak.float().argmax(-1) + low).float()
    octave = torch.log(RATE_HZ / lag / PITCH_HZ[0]) / math.log(PITCH_HZ[1] / PITCH_HZ[0])
    cls = 1 + (octave * (NUM_PITCH_CLASSES - 1)).long().clamp(0, NUM_PITCH_CLASSES - 2)
    is_voiced = (top[..., 0] > 0.6) & (frames.square().mean(-1) > 1e-5) & is_peak.any(-1)
    return torch.where(is_voiced, cls, torch.zeros_like(cls))


SEMITONES_PER_CLASS = 12 * math.log2(PITCH_HZ[1] / PITCH_HZ[0]) / (NUM_PITCH_CLASSES - 1)


def _conv(c_in: int, c_out: int, kernel: tuple[int, int], stride: tuple[int, int]) -> nn.Module:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.utils.parametrizations.weight_norm(nn.Conv2d(c_in, c_out, kernel, stride, padding))


class _Stack(nn.Module):
    """Leaky convolutions; gives the verdict and all inner features."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return [*features, self.layers[-1](x)]


class SpectrumDiscriminator(nn.Module):
    """Judges the complex spectrogram of one window length."""

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self._window = window
        self.register_buffer("taper", torch.hann_window(window), persistent=False)
        self.stack = _Stack(
            [
                _conv(2, channels, (3, 9), (1, 1)),
                _conv(channels, channels, (3, 9), (1, 2)),
                _conv(channels, 2 * channels, (3, 9), (1, 2)),
                _conv(2 * channels, 2 * channels, (3, 3), (1, 1)),
                _conv(2 * channels, 1, (3, 3), (1, 1)),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Samples ``[B, S]`` to features, the verdict last."""
        taper = self.get_buffer("taper")
        spectrum = torch.stft(
            x.float(), self._window, self._window // 4, self._window, taper, return_complex=True
        )
        image = torch.view_as_real(spectrum).permute(0, 3, 2, 1)
        power = image.square().sum(1, keepdim=True)
        return self.stack(image / (power + 1e-4).pow(0.35))  # loud and faint parts both count


class PeriodDiscriminator(nn.Module):
    """Judges the samples folded at one period."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self._period = period
        widths = [1, channels, 2 * channels, 4 * channels, 4 * channels]
        layers = [_conv(a, b, (5, 1), (3, 1)) for a, b in itertools.pairwise(widths)]
        self.stack = _Stack([*layers, _conv(widths[-1], 1, (3, 1), (1, 1))])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Samples ``[B, S]`` to features, the verdict last."""
        x = F.pad(x, (0, -x.shape[-1] % self._period))
        return self.stack(x.view(len(x), 1, -1, self._period))


class Discriminators(nn.Module):
    """All judges; each gives its features, the verdict last."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.judges = nn.ModuleList(
            [
                *(SpectrumDiscriminator(window, channels) for window in (1024, 512, 256)),
                *(PeriodDiscriminator(period, channels) for period in (2, 3, 5, 7, 11)),
            ]
        )

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Samples ``[B, S]``."""
        return [judge(x) for judge in self.judges]


def judges_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """Least squares: real speech is 1, made speech is 0."""
    parts = [
        ((1 - r[-1].float()) ** 2).mean() + (m[-1].float() ** 2).mean()
        for r, m in zip(real, made, strict=True)
    ]
    return torch.stack(parts).mean()


def fooling_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """How well the judges see through made speech, and how far its features are from real."""
    verdict = torch.stack([((1 - m[-1].float()) ** 2).mean() for m in made]).mean()
    distances = [
        (a.float() - b.float().detach()).abs().mean() / (b.float().abs().mean().detach() + 1e-3)
        for r, m in zip(real, made, strict=True)
        for a, b in zip(m[:-1], r[:-1], strict=True)
    ]
    return verdict + 2.0 * torch.stack(distances).mean()
