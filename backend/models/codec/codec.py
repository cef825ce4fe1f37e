"""The codec as the engine sees it: samples to codes, codes to samples, whole or as a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.models.codec.decoder import Decoder
from backend.models.codec.encoder import Encoder
from backend.models.codec.layers import (
    CausalConv1d,
    ConvNeXtBlock,
    Snake,
    history_shapes,
    plain_mix,
    plain_snake,
)
from backend.models.codec.quantizer import Quantizer
from backend.models.codec.state import (
    DecodeState,
    EncodeState,
    new_attention_state,
    new_histories,
)
from backend.models.codec.state_pool import StatePool
from backend.models.codec.transformer import TransformerBlock, WindowTransformer

if TYPE_CHECKING:
    from backend.models.codec.config import CodecConfig
    from backend.models.codec.fused.encoder import FusedEncoder
    from backend.models.codec.layers import SnakeKernel
    from backend.models.codec.transformer import FinishBlock

Plain = TypeVar("Plain")

CodecParts: TypeAlias = Literal["all", "decode", "encode"]

ENCODE_CHUNK_FRAMES = 64
"""Frames that ``encode_reference`` works on at a time. The first layers hold 64 channels per
sample: 64 frames of S1-mini are 34 MB a tensor, three minutes at once would be 2.1 GB."""


class LayerCompiler(Protocol):
    """Gives another function that computes the same; the same one for the same function."""

    def __call__(self, plain: Plain, /) -> Plain:
        """Take a function of a layer and its tensors."""
        ...


class Codec(nn.Module):
    """Turn speech into frames of codes and back.

    A frame is one column of codes: ``num_codebooks`` of them for ``frame_length`` samples. Both
    directions are causal without look-ahead: frame ``t`` depends on samples before its end, and
    sample ``s`` on frames up to its own. So a stream can be decoded frame by frame and gives the
    samples of the whole.

    The modules are functions of their inputs: streams keep their past in a ``DecodeState``, and
    any number of them can use one codec. Public methods run in inference mode.

    Args:
        config: Sizes.
        parts: ``"decode"`` leaves out what only ``encode_reference`` needs (53 % of S1-mini),
            ``"encode"`` what it does not need. The codebooks are in both.
    """

    def __init__(self, config: CodecConfig, parts: CodecParts = "all") -> None:
        super().__init__()
        self.config = config
        self.encoder = None if parts == "decode" else Encoder(config)
        self.quantizer = Quantizer(
            config, with_encoder=parts != "decode", with_decoder=parts != "encode"
        )
        self.decoder = None if parts == "encode" else Decoder(config)
        self.fused_encoder: FusedEncoder | None = None
        """Runs the encoder's convolutions from now on, where it is set."""

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sample_rate

    @property
    def frame_length(self) -> int:
        """Samples per frame."""
        return self.config.frame_length

    @property
    def num_codebooks(self) -> int:
        """Codes per frame, the semantic one included."""
        return self.config.num_codebooks

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Entries of each codebook."""
        return self.config.codebook_sizes

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._first_weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the convolutions and transformers run in; the samples are always float32."""
        return self._first_weight.dtype

    @property
    def _first_weight(self) -> Tensor:
        first = self.encoder.block[0] if self.decoder is None else self.decoder.model[0]  # pyright: ignore[reportOptionalMemberAccess]
        assert isinstance(first, CausalConv1d)
        return first.conv.weight

    @property
    def can_encode(self) -> bool:
        """Whether the parts that ``encode_reference`` needs were built."""
        return self.encoder is not None

    def use_snake_kernel(self, kernel: SnakeKernel | None) -> None:
        """Run every snake by ``kernel`` from now on, or plainly with None."""
        for module in self.modules():
            if isinstance(module, Snake):
                module.kernel = kernel

    def compile_layers(self, compiled: LayerCompiler, finish: FinishBlock) -> None:
        """Run other functions in the layers from now on; snakes that have a kernel keep it.

        Args:
            compiled: What to run instead of a plain function.
            finish: What to run instead of ``plain_finish``.
        """
        for module in self.modules():
            if isinstance(module, ConvNeXtBlock):
                module.mix = compiled(plain_mix)
            elif isinstance(module, TransformerBlock):
                module.finish = finish
            elif isinstance(module, Snake) and module.kernel is None:
                module.kernel = compiled(plain_snake)

    @torch.inference_mode()
    def encode_reference(
        self, samples: Tensor, *, chunk_frames: int = ENCODE_CHUNK_FRAMES
    ) -> Tensor:
        """Turn a recording of any length into codes.

        Args:
            samples: ``[B, S]`` float at ``sample_rate``, mono, in -1..1. The end is filled with
                silence up to a whole frame.
            chunk_frames: Frames worked on at a time; bounds the memory, does not change the codes.

        Returns:
            ``[B, K, F]`` int64 with ``F = ceil(S / frame_length)``.

        Raises:
            ValueError: ``samples`` is not 2-D or empty.
            RuntimeError: The codec was built for decoding only.
        """
        if samples.ndim != 2 or samples.shape[1] == 0:
            raise ValueError(f"samples must be [B, S > 0], got {tuple(samples.shape)}")
        if self.encoder is None:
            raise RuntimeError('this codec has no encoder: load it with parts="all" or "encode"')
        samples = samples.to(self.device, self.dtype)
        samples = F.pad(samples, (0, -samples.shape[1] % self.frame_length))[:, None]
        chunk_length = chunk_frames * self.frame_length
        if samples.shape[-1] <= chunk_length:
            return self._encode(self.encoder, samples, None)
        state = self.new_encode_state(samples.shape[0])
        chunks = samples.split(chunk_length, dim=-1)
        return torch.cat([self._encode(self.encoder, chunk, state) for chunk in chunks], dim=-1)

    @torch.inference_mode()
    def encode_stream(self, samples: Tensor, state: EncodeState) -> Tensor:
        """Turn the next samples of ``B`` recordings into their codes.

        Nothing is read on the host if the state's ``lengths`` are None and the rotary tables have
        room: then the call can be captured as a CUDA graph.

        Args:
            samples: ``[B, S]`` in the codec's dtype and on its device; S is a multiple of
                ``frame_length``.
            state: From ``new_encode_state``; advanced by S samples.

        Returns:
            ``[B, K, S / frame_length]`` int64.
        """
        assert self.encoder is not None
        return self._encode(self.encoder, samples[:, None], state)

    @torch.inference_mode()
    def decode_frames(self, codes: Tensor) -> Tensor:
        """Turn whole codes into samples at once.

        Args:
            codes: ``[B, K, F]`` integer on the codec's device, F > 0. Row 0 holds semantic codes,
                the others residual ones; a code beyond its codebook counts as the last entry.

        Returns:
            ``[B, F * frame_length]`` float32 in -1..1.

        Raises:
            ValueError: ``codes`` has another shape.
        """
        self._check_codes(codes)
        return self._decode(codes, None)

    @torch.inference_mode()
    def decode_chunked(self, codes: Tensor, chunk_frames: int) -> Tensor:
        """Turn whole codes into samples, ``chunk_frames`` at a time.

        The samples are those of ``decode_frames``; the memory does not grow with F, and on a CPU
        the intermediate results stay in the cache.
        """
        self._check_codes(codes)
        if chunk_frames < 1:
            raise ValueError(f"chunk_frames must be at least 1, got {chunk_frames}")
        state = self.new_decode_state(codes.shape[0])
        chunks = codes.split(chunk_frames, dim=-1)
        return torch.cat([self.decode_stream(chunk, state) for chunk in chunks], dim=-1)

    @torch.inference_mode()
    def decode_stream(self, codes: Tensor, state: DecodeState) -> Tensor:
        """Turn the next frames of ``B`` streams into their samples.

        Args:
            codes: ``[B, K, f]`` integer on the codec's device, f > 0; each call may have another f.
            state: From ``new_decode_state``; advanced by f frames.

        Returns:
            ``[B, f * frame_length]`` float32: exactly the samples of these frames, nothing held
            back. Over the calls they join to what ``decode_frames`` gives for all frames.

        Raises:
            ValueError: ``codes`` has another shape, or a batch size that is not the state's.
        """
        self._check_codes(codes)
        if codes.shape[0] != state.batch_size:
            raise ValueError(
                f"codes hold {codes.shape[0]} streams, the state holds {state.batch_size}"
            )
        return self._decode(codes, state)

    @torch.inference_mode()
    def decode_rows(self, codes: Tensor, pool: StatePool, rows: Tensor) -> Tensor:
        """Turn the next frames of some streams of a pool into their samples.

        Nothing is read on the host, so the call can be captured as a CUDA graph. The rotary table
        must have room for the streams: see ``reserve_positions``.

        Args:
            codes: ``[B, K, f]`` integer on the codec's device.
            pool: Where the streams are kept; changed in place.
            rows: ``[B]`` int64 on the device: whose frames these are, no row twice (but for rows
                whose samples nobody wants).

        Returns:
            ``[B, f * frame_length]`` float32.
        """
        gathered = pool.gather(rows)
        samples = self._decode(codes, gathered.state)
        pool.scatter(rows, gathered)
        return samples

    def new_pool(self, num_rows: int) -> StatePool:
        """Give room for ``num_rows`` streams."""
        return StatePool(self.new_decode_state(1), num_rows)

    def new_decode_state(self, batch_size: int = 1) -> DecodeState:
        """Give the state of ``batch_size`` streams that have not begun (9 MB each for S1-mini)."""
        assert self.decoder is not None
        assert self.quantizer.upsample is not None
        device, dtype = self.device, self.dtype
        *shapes, last = [*history_shapes(self.quantizer.upsample), *history_shapes(self.decoder)]
        return DecodeState(
            attentions=[new_attention_state(self.config.transformer, batch_size, device, dtype)],
            histories=[
                *new_histories(shapes, batch_size, device, dtype),
                # The last convolution runs in float32 at least.
                *new_histories(
                    [last], batch_size, device, torch.promote_types(dtype, torch.float32)
                ),
            ],
        )

    def reserve_positions(self, num_frames: int) -> bool:
        """Make room for streams of ``num_frames``, so that no call grows a table meanwhile.

        Returns:
            Whether the table moved: a CUDA graph captured before reads the old one.
        """
        assert self.quantizer.post_module is not None
        rotary = self.quantizer.post_module.rotary
        before = rotary.address
        rotary.reserve(num_frames, self.device)
        return rotary.address != before

    def _decode(self, codes: Tensor, state: DecodeState | None) -> Tensor:
        if self.decoder is None:
            raise RuntimeError('this codec has no decoder: load it with parts="all" or "decode"')
        if state is None:
            return self.decoder(self.quantizer.upsampled(codes)).squeeze(1)
        histories = iter(state.histories)
        latents = self.quantizer.upsampled(codes, state.attentions[0], histories)
        return self.decoder(latents, histories).squeeze(1)

    def new_encode_state(self, batch_size: int = 1) -> EncodeState:
        """Give the state of ``batch_size`` recordings that have not begun."""
        assert self.encoder is not None
        assert self.quantizer.downsample is not None
        device, dtype = self.device, self.dtype
        transformers = [m for m in self.encoder.modules() if isinstance(m, WindowTransformer)]
        configs = [*[m.config for m in transformers], self.config.transformer]
        shapes = [*history_shapes(self.encoder), *history_shapes(self.quantizer.downsample)]
        fused = None
        if self.fused_encoder is not None:
            fused = self.fused_encoder.new_pool(batch_size)
            shapes = [*history_shapes(self.quantizer.downsample)]
        return EncodeState(
            fused=fused,
            attentions=[new_attention_state(c, batch_size, device, dtype) for c in configs],
            histories=new_histories(shapes, batch_size, device, dtype),
        )

    def _encode(self, encoder: Encoder, samples: Tensor, state: EncodeState | None) -> Tensor:
        if state is None:
            if self.fused_encoder is None:
                return self.quantizer.quantize(encoder(samples))
            pool = self.fused_encoder.new_pool(samples.shape[0])
            return self.quantizer.quantize(self.fused_encoder.encode(samples[:, 0], pool, None))
        histories = iter(state.histories)
        *inner, last = state.attentions
        if state.fused is not None and self.fused_encoder is not None:
            latents = self.fused_encoder.encode(samples[:, 0], state.fused, iter(inner))
        else:
            latents = encoder(samples, iter(inner), histories)
        return self.quantizer.quantize(latents, last, histories)

    def _check_codes(self, codes: Tensor) -> None:
        if codes.ndim != 3 or codes.shape[1] != self.num_codebooks or codes.shape[2] == 0:
            raise ValueError(
                f"codes must be [B, {self.num_codebooks}, F > 0], got {tuple(codes.shape)}"
            )
