"""Run the official codec and write down what it does. For the environment of the official package.

    <its python> tests/parity/codec_oracle.py JOB.json RESULT.pt

The job::

    {"sizes": {...} | null,      fields of CodecConfig, or the packaged sizes of S1-mini
     "load": path | null,        state dict to use; else the weights of codec_cases
     "save": path | null,        where to write the official state dict
     "recordings": [5000, ...],  lengths of recordings to encode
     "codes": [[[...]], ...],    [K, F] codes to decode, and to encode again from their samples
     "frames": [24, ...]}        numbers of frames of made-up codes to decode

The result: ``encoded``, ``decoded``, ``reencoded``: lists of tensors in the order of the job, the
given codes before the made-up ones. Nothing of this project's product is imported, and nothing of
the official package is copied.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import fish_speech  # type: ignore[import-not-found]
import torch
from hydra.utils import instantiate  # type: ignore[import-not-found]
from omegaconf import OmegaConf  # type: ignore[import-not-found]

from tests.parity import reference_stubs  # noqa: F401  (must come before fish_speech)
from tests.parity.codec_cases import codec_weight, codes_of, recording

TRANSFORMER_KEYS = (
    "n_layer",
    "n_head",
    "dim",
    "intermediate_size",
    "head_dim",
    "rope_base",
    "norm_eps",
)
QUANTIZER_KEYS = (
    "n_codebooks",
    "codebook_size",
    "codebook_dim",
    "semantic_codebook_size",
    "downsample_factor",
)
CODEC_KEYS = (
    "sample_rate",
    "encoder_dim",
    "encoder_rates",
    "latent_dim",
    "decoder_dim",
    "decoder_rates",
    "encoder_transformer_layers",
)
COMPUTED = ("freqs_cis", "causal_mask")


def build(sizes: dict[str, Any] | None) -> Any:
    """Construct the official codec, at its own sizes or at others."""
    config = OmegaConf.load(Path(next(iter(fish_speech.__path__))) / "configs/modded_dac_vq.yaml")
    if sizes is not None:
        config.update({key: sizes[key] for key in CODEC_KEYS})
        # Built there, but never run; at small widths even building fails.
        config.decoder_transformer_layers = [0] * len(sizes["decoder_rates"])
        quantizer = config.quantizer
        quantizer.update({key: sizes[key] for key in QUANTIZER_KEYS})
        quantizer.input_dim = sizes["latent_dim"]
        for module in (quantizer.pre_module, quantizer.post_module):
            module.window_size = sizes["window_size"]
            module.input_dim = sizes["latent_dim"]
            module.config.update({key: sizes[key] for key in TRANSFORMER_KEYS})
        general = config.transformer_general_config
        general.update({key: sizes[key] for key in ("rope_base", "norm_eps")})
    return instantiate(config).eval()


@torch.no_grad()
def set_weights(codec: Any, stored: Path | None) -> None:
    """Load a state dict, or give every parameter its value from ``codec_cases``."""
    if stored is None:
        parameters = dict(codec.named_parameters())
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            parameter.copy_(codec_weight(name, shapes[name], shapes))
        return
    missing, unknown = codec.load_state_dict(torch.load(stored, weights_only=True), strict=False)
    missing = [name for name in missing if not name.endswith(COMPUTED)]
    if missing or unknown:
        raise RuntimeError(f"the official codec misses {missing} and does not know {unknown}")


@torch.no_grad()
def run(job: dict[str, Any]) -> dict[str, list[torch.Tensor]]:
    """Do what the job says."""
    codec = build(job["sizes"])
    set_weights(codec, job["load"] and Path(job["load"]))
    if job["save"]:
        torch.save(codec.state_dict(), job["save"])
    quantizer = codec.quantizer
    codebooks = [*quantizer.semantic_quantizer.quantizers, *quantizer.quantizer.quantizers]
    sizes = [codebook.codebook.num_embeddings for codebook in codebooks]
    given = [torch.tensor(codes)[None] for codes in job["codes"]]
    codes = given + [codes_of(sizes, num_frames) for num_frames in job["frames"]]
    decoded = [
        codec.decode(each.clone(), torch.tensor([each.shape[-1]]))[0].squeeze(1) for each in codes
    ]
    return {
        "encoded": [codec.encode(recording(n)[:, None])[0] for n in job["recordings"]],
        "decoded": decoded,
        "reencoded": [codec.encode(each[:, None])[0] for each in decoded[: len(given)]],
    }


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123
        result = run(json.load(file))
    torch.save(result, sys.argv[2])
