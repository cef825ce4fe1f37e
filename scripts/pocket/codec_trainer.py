"""The codec's networks, optimizers and training step."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.pocket.captured import CapturedStep
from scripts.pocket.codec_losses import (
    NUM_PITCH_CLASSES,
    PITCH_HOP,
    SEMITONES_PER_CLASS,
    Discriminators,
    SpectralLoss,
    fooling_loss,
    judges_loss,
    pitch_classes,
)
from scripts.pocket.flite import PHONES
from scripts.pocket.render import LABEL_HOP

if TYPE_CHECKING:
    from scripts.pocket.codec import Codec
    from scripts.pocket.codec_net import CodecSizes
    from scripts.pocket.speech_store import SpeechStore


@dataclass(frozen=True)
class CodecTraining:
    """How to train; shares are of the whole schedule's time.

    The discriminators train alone for ``judge_wait`` steps, then count more and more for
    ``judge_ramp`` steps.
    """

    minutes: float
    batch: int = 32
    crop_frames: int = 32
    judged_items: int = 10
    judged_frames: int = 16
    peak_lr: float = 6e-4
    quantize_at: float = 0.10
    judge_at: float = 0.62
    judge_wait: int = 0
    judge_ramp: int = 600
    mel_weight: float = 15.0
    magnitude_weight: float = 4.0
    commit_weight: float = 0.5
    ema: float = 0.999
    is_decoder_only: bool = False
    has_graph: bool = True


class LabelHeads(nn.Module):
    """Linear readers of phones and pitch; they are not shipped."""

    def __init__(self, sizes: CodecSizes) -> None:
        super().__init__()
        self._per_frame = sizes.frame_length // LABEL_HOP
        self._pitches = sizes.frame_length // PITCH_HOP
        self.phone = nn.Linear(sizes.latent_dim, self._per_frame * len(PHONES))
        self.pitch = nn.Linear(sizes.latent_dim, self._pitches * NUM_PITCH_CLASSES)

    def phone_logits(self, semantic: Tensor) -> Tensor:
        """``[B, C, F]`` -> ``[B * labels, phones]``."""
        return self.phone(semantic.transpose(1, 2)).reshape(-1, len(PHONES))

    def pitch_logits(self, latents: Tensor) -> Tensor:
        """``[B, C, F]`` -> ``[B * pitches, classes]``."""
        return self.pitch(latents.transpose(1, 2)).reshape(-1, NUM_PITCH_CLASSES)


class CodecTrainer:
    """Networks, optimizers and the step of the current phase."""

    loss_names: tuple[str, ...] = (
        "mel", "magnitude", "commit", "codebook", "phone", "pitch", "judges", "fooling",
    )  # fmt: skip

    def __init__(self, net: Codec, training: CodecTraining, device: torch.device) -> None:
        self.training, self.device, self.sizes = training, device, net.sizes
        self.net = net.to(device).train()
        self.heads = LabelHeads(net.sizes).to(device)
        self.judges = Discriminators().to(device)
        self.averaged = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.spectral = SpectralLoss().to(device)
        self.phase = "decoder" if training.is_decoder_only else "free"
        self._trained = self._trainable()
        self._lr = torch.tensor(0.0, device=device)
        self._judge_lr = torch.tensor(0.0, device=device)
        self._judge_ramp = torch.tensor(0.0, device=device)
        self.optimizer = self._adam(self._trained, self._lr)
        self.judge_optimizer = self._adam(list(self.judges.parameters()), self._judge_lr)
        self._step = self._new_step()
        self._projected: list[Tensor] = []

    def _trainable(self) -> list[nn.Parameter]:
        if not self.training.is_decoder_only:
            return [*self.net.parameters(), *self.heads.parameters()]
        quantizer = self.net.quantizer
        parts = (self.net.decoder, quantizer.post_module, quantizer.upsample)
        return [p for part in parts for p in part.parameters()]

    def _adam(self, parameters: list[nn.Parameter], lr: Tensor) -> torch.optim.AdamW:
        is_cuda = self.device.type == "cuda"
        return torch.optim.AdamW(
            parameters, lr if is_cuda else 0.0, (0.8, 0.99), weight_decay=1e-3, fused=is_cuda,
            capturable=is_cuda,
        )  # fmt: skip

    def _new_step(self) -> CapturedStep:
        return CapturedStep(self._train_once, is_enabled=self.training.has_graph)

    @property
    def is_judged(self) -> bool:
        """Do the discriminators take part?"""
        return self.phase in ("judged", "decoder", "refine")

    @property
    def crop_labels(self) -> int:
        """Labels per training crop."""
        return self.training.crop_frames * self.sizes.frame_length // LABEL_HOP

    def set_rates(self, lr: float, judge_lr: float, judge_ramp: float) -> None:
        """Learning rates and the weight of the discriminators from now on."""
        self._lr.fill_(lr)
        self._judge_lr.fill_(judge_lr)
        self._judge_ramp.fill_(judge_ramp)
        if self.device.type != "cuda":
            self.optimizer.param_groups[0]["lr"] = lr
            self.judge_optimizer.param_groups[0]["lr"] = judge_lr

    def step(self, samples: Tensor, labels: Tensor) -> Tensor:
        """One step; returns the losses in the order of ``loss_names``, to be read later."""
        return self._step(samples, labels)

    def start_quantizing(self, latents: Tensor) -> list[float]:
        """Fit the codebooks to latents ``[N, C]`` and train with them from now on."""
        left = self.net.quantizer.fit(latents)
        self.averaged.load_state_dict(self.net.state_dict())
        self.phase = "quantized"
        self._step = self._new_step()
        return left

    def start_judging(self) -> None:
        """Let the discriminators in."""
        self.phase = "judged"
        self._step = self._new_step()

    def revive_codes(self) -> None:
        """Give codebook entries that nothing uses a new place."""
        books = self.net.quantizer.codebooks
        for book, projected in zip(books, self._projected, strict=False):
            book.revive(projected)

    def autocast(self) -> torch.autocast:
        """Half precision on a GPU. The weight cache must be off inside a captured step."""
        is_cuda = self.device.type == "cuda"
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=is_cuda, cache_enabled=False
        )

    # --- the step, captured as a graph ---------------------------------------------------
    def _train_once(self, samples: Tensor, labels: Tensor) -> Tensor:
        t, zero = self.training, samples.new_zeros(())
        if self.phase == "decoder":
            made = self._decode_frozen(samples)
            commit = codebook = phone = pitch = zero
        else:
            made, semantic, latents, commit, codebook = self._round_trip(samples)
            phone = F.cross_entropy(self.heads.phone_logits(semantic), labels.flatten())
            classes = pitch_classes(samples).flatten()
            pitch = F.cross_entropy(self.heads.pitch_logits(latents), classes)
        made = made.float()
        mel, magnitude = self.spectral(made[:, 0], samples[:, 0])
        loss = t.mel_weight * mel + t.magnitude_weight * magnitude + codebook
        loss = loss + t.commit_weight * commit + phone + pitch
        judged = fooled = zero
        if self.is_judged:
            judged, fooled, heard = self._judge(made, samples)
            loss = loss + self._judge_ramp * heard
        self._update(loss)
        parts = (mel, magnitude, commit, codebook, phone, pitch, judged, fooled)
        return torch.stack([part.detach() for part in parts])

    def _update(self, loss: Tensor) -> None:
        """One step of the optimizer and of the averaged weights."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained, 5.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                list(self.averaged.parameters()), list(self.net.parameters()),
                1 - self.training.ema,
            )  # fmt: skip

    def _round_trip(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        quantizer = self.net.quantizer
        with self.autocast():
            latents = quantizer.condense(self.net.encoder(samples))
        if self.phase == "free":
            semantic, codebook = quantizer.straight(latents)
            commit = torch.zeros_like(codebook)
        else:
            quantized = quantizer.quantize(latents)
            semantic, latents = quantized.semantic, quantized.latents
            commit, codebook = quantized.commit, quantized.codebook
            self._projected = quantized.projected
        with self.autocast():
            made = self.net.decoder(quantizer.expand(latents))
        return made, semantic, latents, commit, codebook

    def _decode_frozen(self, samples: Tensor) -> Tensor:
        with torch.no_grad():
            with self.autocast():
                latents = self.averaged.quantizer.condense(self.averaged.encoder(samples))
            latents = self.averaged.quantizer.quantize(latents).latents
        with self.autocast():
            return self.net.decoder(self.net.quantizer.expand(latents))

    def _judge(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Train the judges; returns their loss, the made speech's loss and its linear stand-in.

        The gradient of the judges reaches only the samples they saw; the stand-in has that
        gradient, so one pass through the judges serves both sides.
        """
        t, length = self.training, self.sizes.frame_length
        start = (t.crop_frames - t.judged_frames) * length // 2
        span = slice(start, start + t.judged_frames * length)
        seen = made[: t.judged_items, 0, span]
        leaf = seen.detach().requires_grad_(True)
        with self.autocast():
            verdict_real = self.judges(real[: t.judged_items, 0, span])
            verdict_made = self.judges(leaf)
        judged = judges_loss(verdict_real, verdict_made)
        fooled = fooling_loss(verdict_real, verdict_made)
        (heard,) = torch.autograd.grad(fooled, leaf, retain_graph=True)
        parameters = list(self.judges.parameters())
        gradients = torch.autograd.grad(judged, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, 10.0)
        self.judge_optimizer.step()
        return judged, fooled, (seen * heard).sum()

    # --- looking at it -------------------------------------------------------------------
    @torch.no_grad()
    def validate(self, samples: Tensor, labels: Tensor) -> dict[str, float]:
        """Figures of the averaged weights on held-out crops."""
        net = self.averaged
        with self.autocast():
            latents = net.quantizer.condense(net.encoder(samples))
        codes = None
        semantic, quantized = latents, latents
        if self.phase != "free":
            out = net.quantizer.quantize(latents)
            semantic, quantized, codes = out.semantic, out.latents, out.codes
        with self.autocast():
            made = net.decoder(net.quantizer.expand(quantized)).float()
        mel, magnitude = self.spectral(made[:, 0], samples[:, 0])
        right = self.heads.phone_logits(semantic).argmax(-1) == labels.flatten()
        ours, theirs = pitch_classes(made), pitch_classes(samples)
        both = (ours > 0) & (theirs > 0)
        off = (ours - theirs).abs()[both].float() * SEMITONES_PER_CLASS
        figures = {
            "mel": float(mel),
            "magnitude": float(magnitude),
            "phone_accuracy": float(right.float().mean()),
            "semitones_off": float(off.mean()) if len(off) else 99.0,
            "voicing_agreement": float(((ours > 0) == (theirs > 0)).float().mean()),
        }
        if codes is not None:
            used = [_perplexity(codes[:, k]) for k in range(codes.shape[1])]
            figures |= {f"perplexity_{k}": value for k, value in enumerate(used)}
        return figures

    @torch.no_grad()
    def latents_for_fit(self, store: SpeechStore, count: int = 48) -> Tensor:
        """Latents ``[N, C]`` of random crops."""
        rows = []
        for _ in range(count if self.device.type == "cuda" else 3):
            samples, _ = store.crops(self.training.batch, self.crop_labels)
            with self.autocast():
                z = self.net.quantizer.condense(self.net.encoder(samples))
            rows.append(z.transpose(1, 2).flatten(0, 1))
        return torch.cat(rows)

    # --- files ---------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Everything that going on needs."""
        return {
            "phase": self.phase, "net": self.net.state_dict(), "heads": self.heads.state_dict(),
            "averaged": self.averaged.state_dict(), "judges": self.judges.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "judge_optimizer": self.judge_optimizer.state_dict(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``. A decoder-only run starts from the averaged joint weights."""
        is_same = (state["phase"] == "decoder") == self.training.is_decoder_only
        self.averaged.load_state_dict(state["averaged"])
        self.net.load_state_dict(state["net" if is_same else "averaged"])
        self.heads.load_state_dict(state["heads"])
        self.judges.load_state_dict(state["judges"])
        self.judge_optimizer.load_state_dict(state["judge_optimizer"])
        for group in self.judge_optimizer.param_groups:
            group["lr"] = self._judge_lr if self.device.type == "cuda" else 0.0
        if is_same:
            self.phase = state["phase"]
            self.optimizer.load_state_dict(state["optimizer"])
            for group in self.optimizer.param_groups:
                group["lr"] = self._lr if self.device.type == "cuda" else 0.0


def _perplexity(codes: Tensor) -> float:
    share = torch.bincount(codes.flatten()).float() / codes.numel()
    return float(torch.exp(-(share * (share + 1e-9).log()).sum()))
