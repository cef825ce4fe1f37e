"""Compiling all kernels from the first moment of a start, while the weights are still read.

Kernels depend on sizes and number formats alone. So an engine's networks are laid out a second time
without memory (``twins``) and gone through without running anything; threads compile what they ask
for. The engine itself then finds every kernel made. What is not made here, for whatever reason, is
when the engine first starts it.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from threading import Thread
from typing import TYPE_CHECKING

import torch

from backend.engine.card_kernels import why_no_fused_prompts
from backend.engine.decode_frames import fused_plan
from backend.engine.encode_reference import COMPILED
from backend.engine.twins import codec_twin, dual_ar_twin
from backend.models.codec.fused.decoder import FusedDecoder
from backend.models.codec.fused.encoder import FusedEncoder, why_encoder_not_fused
from backend.models.codec.fused.network import why_not_fused
from backend.models.kernel_compiling import loading

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.core.settings import Settings
    from backend.engine.codec_setup import CodecSetup
    from backend.engine.precision import Precision
    from backend.models.codec.config import CodecConfig
    from backend.models.config import DualARConfig
    from backend.models.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


class CompileStart:
    """Goes through chains of kernels in threads of their own.

    Args:
        device: Where the kernels will run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._threads: list[Thread] = []

    def begin(self, name: str, chain: Callable[[], object]) -> None:
        """Go through ``chain``, which may begin others; returns at once."""
        thread = Thread(target=self._run, args=(name, chain), name=f"compile {name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self) -> None:
        """Return when all that was begun is done."""
        while self._threads:
            self._threads.pop().join()

    def _run(self, name: str, chain: Callable[[], object]) -> None:
        on_card = self._device.type == "cuda"
        try:
            with torch.cuda.device(self._device) if on_card else nullcontext(), loading():
                chain()
        except Exception as error:  # noqa: BLE001 - the engine meets it again, and tells
            _log.info("not compiled ahead: %s (%s: %s)", name, type(error).__name__, error)


def begin_codec(
    start: CompileStart, setup: CodecSetup, config: CodecConfig, num_slots: int
) -> None:
    """Compile what the codec's fused halves start."""
    decode, encode = setup.fused.decode, setup.fused.encode
    if decode is not None:
        # the largest kernels take longest, so they come first
        plan = fused_plan(
            setup.max_frames, batching=setup.batching, has_graphs=setup.capture is not None
        )
        sizes = plan.sizes(num_slots)[::-1]

        def decoding_half() -> None:
            codec = codec_twin(config, setup.precision.dtype, "decode")
            if why_not_fused(codec) is None:
                fused = FusedDecoder(codec, decode)
                fused.compile_for(sizes, fused.new_pool(num_slots + 1))

        start.begin("the codec's decoding half", decoding_half)
    if encode is not None and not setup.is_encoder_on_host:

        def encoding_half() -> None:
            codec = codec_twin(config, torch.float32, "encode")
            if why_encoder_not_fused(codec) is None:
                FusedEncoder(codec, encode).compile_for(COMPILED)

        start.begin("the codec's encoding half", encoding_half)


def begin_dual_ar(
    start: CompileStart, settings: Settings, precision: Precision, config: DualARConfig,
    codec: CodecConfig, tokenizer: Tokenizer,
) -> None:  # fmt: skip
    """Compile what prompts and decode steps start."""
    if why_no_fused_prompts(config, settings, precision.device) is not None:
        return
    ids = (tokenizer.semantic_begin_id, tokenizer.num_semantic, tokenizer.im_end_id)

    def all_of_it() -> None:
        twin = dual_ar_twin(settings, precision, config, codec, ids)
        is_resident = settings.resident_kernels and twin.why_not_resident() is None
        if is_resident:
            start.begin("resident kernels", twin.compile_resident)
        is_batch = settings.batch_kernels and twin.takes_batch_kernels()
        if is_batch:
            start.begin("batch kernels", twin.compile_batch_kernels)
        start.begin("prompts", twin.compile_prompts)
        twin.compile_steps(settings, is_resident=is_resident, is_batch=is_batch)

    start.begin("decode steps", all_of_it)
