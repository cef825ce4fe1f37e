"""The codec's files: official names, weight norm as pairs, fp16 safetensors, the official YAML."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from scripts.pocket.codec import Codec
from scripts.pocket.codec_net import CausalConv, CausalUpsample, CodecSizes
from scripts.pocket.quantizer_net import Pointwise

if TYPE_CHECKING:
    from pathlib import Path

_NEW_NORM = ("conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1")
_OLD_NORM = ("weight_g", "weight_v")


def official_state(net: Codec) -> dict[str, Tensor]:
    """State under the official names, float32 on the CPU.

    Weight-normed layers hold magnitude and direction, as the official class expects.
    """
    state = {name: value.detach().float().cpu() for name, value in net.state_dict().items()}
    for name, plain, pair in _normed_layers(net):
        weight = state.pop(f"{name}.{plain}")
        state[f"{name}.{pair[0]}"] = weight.norm(dim=(1, 2), keepdim=True).clamp(min=1e-8)
        state[f"{name}.{pair[1]}"] = weight
    return state


def load_official_state(net: Codec, state: dict[str, Tensor]) -> None:
    """The inverse of ``official_state``; every name must match."""
    state = {name: value.float() for name, value in state.items()}
    for name, plain, pair in _normed_layers(net):
        size, direction = state.pop(f"{name}.{pair[0]}"), state.pop(f"{name}.{pair[1]}")
        norm = direction.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        state[f"{name}.{plain}"] = direction * (size / norm)
    net.load_state_dict(state)


def _normed_layers(net: Codec) -> list[tuple[str, str, tuple[str, str]]]:
    layers = []
    for name, module in net.named_modules():
        if isinstance(module, CausalConv | CausalUpsample) and module.is_normed:
            layers.append((name, "conv.weight", _NEW_NORM))
        elif isinstance(module, Pointwise):
            layers.append((name, "weight", _OLD_NORM))
    return layers


def save_codec(net: Codec, path: Path, kept: dict[str, Tensor] | None = None) -> None:
    """Write fp16 weights with the config in the metadata, and the official YAML beside them.

    Tensors of ``kept`` are written as they are given.
    """
    state = {name: v.to(torch.float16).contiguous() for name, v in official_state(net).items()}
    state |= kept or {}
    save_file(state, str(path), metadata={"config": json.dumps(asdict(net.sizes))})
    path.with_suffix(".yaml").write_text(official_yaml(net.sizes), encoding="utf-8")


def saved_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file as they are, under their official names."""
    return load_file(str(path))


def load_codec(path: Path) -> Codec:
    """Read a codec that ``save_codec`` wrote, for inference on the CPU."""
    with safe_open(str(path), "pt") as file:
        values = json.loads(file.metadata()["config"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    sizes: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    net = Codec(CodecSizes(**sizes))
    load_official_state(net, state)
    return net.eval()


def official_yaml(sizes: CodecSizes) -> str:
    """The config in the official package's schema."""
    transformer = f"""
    _target_: fish_speech.models.dac.modded_dac.WindowLimitedTransformer
    causal: true
    window_size: {sizes.window_size}
    input_dim: {sizes.latent_dim}
    config:
      _target_: fish_speech.models.dac.modded_dac.ModelArgs
      block_size: {sizes.block_size}
      n_layer: {sizes.n_layer}
      n_head: {sizes.n_head}
      dim: {sizes.dim}
      intermediate_size: {sizes.intermediate_size}
      n_local_heads: -1
      head_dim: {sizes.head_dim}
      rope_base: {sizes.rope_base:g}
      norm_eps: {sizes.norm_eps}
      dropout_rate: 0.0
      attn_dropout_rate: 0.0
      channels_first: true"""
    no_layers = [0] * len(sizes.encoder_rates)
    return f"""_target_: fish_speech.models.dac.modded_dac.DAC
sample_rate: {sizes.sample_rate}
encoder_dim: {sizes.encoder_dim}
encoder_rates: {list(sizes.encoder_rates)}
latent_dim: {sizes.latent_dim}
decoder_dim: {sizes.decoder_dim}
decoder_rates: {list(sizes.decoder_rates)}
encoder_transformer_layers: {no_layers}
decoder_transformer_layers: {no_layers}
quantizer:
  _target_: fish_speech.models.dac.rvq.DownsampleResidualVectorQuantize
  input_dim: {sizes.latent_dim}
  n_codebooks: {sizes.n_codebooks}
  codebook_size: {sizes.codebook_size}
  codebook_dim: {sizes.codebook_dim}
  quantizer_dropout: {sizes.quantizer_dropout}
  downsample_factor: {list(sizes.downsample_factor)}
  pre_module:{transformer}
  post_module:{transformer}
  semantic_codebook_size: {sizes.semantic_codebook_size}
"""
