"""Fine-tuning of a shipped codec whose codes must keep their meaning.

Codebooks and their projections stay as they are, bit for bit; encoder, transformers and decoder
learn. Every second item of a batch is decoded from the codes that the codec as it started gives, so
the dual-AR that was trained on those codes and the built-in voices lose nothing.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.pocket.codec_losses import pitch_classes
from scripts.pocket.codec_trainer import CodecTrainer, CodecTraining
from scripts.pocket.ear import ear_loss

if TYPE_CHECKING:
    from scripts.pocket.codec import Codec
    from scripts.pocket.ear import PhoneEar

FROZEN = ("quantizer.semantic_quantizer.", "quantizer.quantizer.")
_PHONE_WEIGHT = 1.0
_PITCH_WEIGHT = 0.5
_EAR_WEIGHT, _FEATURE_WEIGHT = 1.0, 3.0


class CodecRefiner(CodecTrainer):
    """Trains all of a codec but its codebooks, on longer crops than the joint training.

    Crops are longer than the transformers' window, so that every distance they will ever look over
    is trained; no residual codebook is left out.
    """

    loss_names = (
        "mel", "magnitude", "commit", "phone", "pitch", "ear", "ear_features", "judges", "fooling",
    )  # fmt: skip

    def __init__(
        self, net: Codec, training: CodecTraining, device: torch.device, ear: PhoneEar
    ) -> None:
        if training.batch % 2:
            raise ValueError(f"the batch must be even, got {training.batch}")
        self.original = copy.deepcopy(net).to(device).eval().requires_grad_(False)
        self.ear = ear
        super().__init__(net, training, device)
        self.phase = "refine"
        self.net.quantizer.eval()

    def _trainable(self) -> list[nn.Parameter]:
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(not name.startswith(FROZEN))
        heads = list(self.heads.parameters())
        return [*(p for p in self.net.parameters() if p.requires_grad), *heads]

    def _train_once(self, samples: Tensor, labels: Tensor) -> Tensor:
        t = self.training
        mine, mine_labels = samples[0::2], labels[0::2]
        made, semantic, latents, commit = self._both_ways(samples)
        phone = F.cross_entropy(self.heads.phone_logits(semantic), mine_labels.flatten())
        classes = pitch_classes(mine).flatten()
        pitch = F.cross_entropy(self.heads.pitch_logits(latents), classes)
        mel, magnitude = self.spectral(made[:, 0], samples[:, 0])
        misheard, features = ear_loss(self.ear, made[:, 0], samples[:, 0], labels)
        judged, fooled, heard = self._judge(made, samples)
        loss = t.mel_weight * mel + t.magnitude_weight * magnitude + t.commit_weight * commit
        loss = loss + _EAR_WEIGHT * misheard + _FEATURE_WEIGHT * features
        # The heads start from nothing, as the judges do: what they ask for counts little at first.
        asked = _PHONE_WEIGHT * phone + _PITCH_WEIGHT * pitch
        self._update(loss + self._judge_ramp * heard + (0.02 + self._judge_ramp) * asked)
        parts = (mel, magnitude, commit, phone, pitch, misheard, features, judged, fooled)
        return torch.stack([part.detach() for part in parts])

    def _both_ways(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Even items through the encoder that learns, odd ones through the one that started.

        Returns the decoded samples ``[B, 1, S]`` of all, and of the even ones the semantic part,
        the quantized latents and the commitment loss.
        """
        quantizer, start = self.net.quantizer, self.original
        with self.autocast():
            latents = quantizer.condense(self.net.encoder(samples[0::2]))
        quantized = quantizer.quantize(latents)
        with torch.no_grad():
            with self.autocast():
                old = start.quantizer.condense(start.encoder(samples[1::2]))
            old = start.quantizer.quantize(old).latents
        both = torch.stack([quantized.latents, old], 1).flatten(0, 1)
        with self.autocast():
            made = self.net.decoder(quantizer.expand(both)).float()
        return made, quantized.semantic, quantized.latents, quantized.commit

    @torch.no_grad()
    def validate(self, samples: Tensor, labels: Tensor) -> dict[str, float]:
        """Figures on held-out crops: also against the codec at the start.

        ``ear_*`` are phone accuracies of the ear: of the source, of the start's round trip, of the
        new one, and of the start's codes in the new decoder. ``same_*`` are shares of equal codes.
        """
        figures = super().validate(samples, labels)
        net, start = self.averaged, self.original
        with self.autocast():
            latents = net.quantizer.condense(net.encoder(samples))
            old_latents = start.quantizer.condense(start.encoder(samples))
        new, old = net.quantizer.quantize(latents), start.quantizer.quantize(old_latents)
        with self.autocast():
            made = net.decoder(net.quantizer.expand(new.latents)).float()
            kept = net.decoder(net.quantizer.expand(old.latents)).float()
            was = start.decoder(start.quantizer.expand(old.latents)).float()
        heard = {"ear_source": samples, "ear_start": was, "ear_new": made, "ear_old_codes": kept}
        figures |= {name: self.ear.accuracy(x[:, 0], labels) for name, x in heard.items()}
        for name, x in (("mel_start", was), ("mel_old_codes", kept)):
            figures[name] = float(self.spectral(x[:, 0], samples[:, 0])[0])
        same = (new.codes == old.codes).float().mean((0, 2))
        return figures | {
            "same_semantic": float(same[0]), "same_residual": float(same[1:].mean()),
            "left_over": _left_over(new.latents, latents),
            "left_over_start": _left_over(old.latents, old_latents),
        }  # fmt: skip


def _left_over(quantized: Tensor, latents: Tensor) -> float:
    """Share of the latents' variance that quantizing loses."""
    return float((quantized - latents).square().mean() / latents.var())
