"""Compiling all kernels from the first moment of a start, while the weights are still read.

Kernels depend on sizes and number formats alone. So an engine's networks are laid out a second time
without memory (``twins``) and gone through without running anything; threads compile what they ask
for. The engine itself then finds every kernel made. What is not made here, for whatever reason, is
when the engine first starts it.

Speech does not wait for what only recordings need: such chains stand back, and go on while the
engine warms up and speaks.
"""

from __future__ import annotations

import atexit
import gc
import logging
from contextlib import nullcontext
from functools import partial
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Self

import torch

from backend.engine.card_kernels import why_no_fused_prompts
from backend.engine.card_step import has_int8, resident_sizes
from backend.engine.codec_precision import (
    CodecPrecision,
    FusedChoice,
    choose_codec_precision,
    find_fused_ops,
)
from backend.engine.decode_frames import fused_plan
from backend.engine.encode_reference import COMPILED, MOST_EAGER_BYTES
from backend.engine.steps import only_batch_size
from backend.engine.twins import codec_twin, dual_ar_twin
from backend.models.codec.fused.decoder import FusedDecoder
from backend.models.codec.fused.encoder import FusedEncoder, why_encoder_not_fused
from backend.models.codec.fused.network import why_not_fused
from backend.models.kernel_compiling import loading, read_compiler, wake

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.core.settings import Settings
    from backend.engine.precision import Precision
    from backend.models.codec.config import CodecConfig
    from backend.models.config import DualARConfig
    from backend.models.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


class CompileStart:
    """Goes through chains of kernels in threads of their own; as a context, ``wait``s for them.

    Args:
        device: Where the kernels will run.
        is_wanted: Without it nothing is begun.
    """

    def __init__(self, device: torch.device, *, is_wanted: bool = True) -> None:
        self.device = device
        self._is_wanted = is_wanted
        self._threads: list[Thread] = []
        self._later: list[Thread] = []
        self._end = Event()
        self._collected_before = False

    @classmethod
    def of(cls, settings: Settings, device: torch.device) -> CompileStart:
        """As the setting ``COMPILE_AHEAD`` says; a CPU has no kernels."""
        return cls(device, is_wanted=settings.compile_ahead and device.type == "cuda")

    def __enter__(self) -> Self:
        self.begin("the compiler itself", read_compiler)  # all other chains need both
        self.begin("the driver", wake)
        # compilers leave much behind, and whoever goes through all of it holds all threads up
        self._collected_before = gc.isenabled()
        if self._is_wanted:
            gc.disable()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        else:
            self._end.set()
        if self._collected_before:
            gc.enable()

    def begin(self, name: str, chain: Callable[[], object], *, is_later: bool = False) -> None:
        """Go through ``chain``, which may begin others; returns at once.

        Args:
            name: For people.
            chain: Starts kernels, or begins further chains.
            is_later: It stands back, and only ``finish`` waits for it.
        """
        if not self._is_wanted:
            return
        if is_later:
            chain = partial(self._stand_back, chain)
            atexit.register(self.close)  # a process must not end in the middle of a compiler
        thread = Thread(target=self._run, args=(name, chain), name=f"compile {name}", daemon=True)
        thread.start()  # before somebody can wait for it
        (self._later if is_later else self._threads).append(thread)

    def wait(self) -> None:
        """Return when all is done that is not for later."""
        while self._threads:
            self._threads.pop().join()

    def finish(self, timeout_s: float | None = None) -> bool:
        """Wait for all that was begun, so long at most; whether it is done."""
        ends_at = None if timeout_s is None else monotonic() + timeout_s
        self.wait()
        while self._later:
            self._later[-1].join(None if ends_at is None else max(0.0, ends_at - monotonic()))
            if self._later[-1].is_alive():
                return False
            self._later.pop()
        atexit.unregister(self.close)
        return True

    def close(self) -> None:
        """Give up what has not begun; returns when nothing is being compiled any more."""
        self._end.set()
        self.finish()

    def _stand_back(self, chain: Callable[[], object]) -> None:
        with loading(self._end):
            chain()

    def _run(self, name: str, chain: Callable[[], object]) -> None:
        on_card = self.device.type == "cuda"
        try:
            with torch.cuda.device(self.device) if on_card else nullcontext(), loading():
                chain()
        except Exception as error:  # noqa: BLE001 - the engine meets it again, and tells
            if not self._end.is_set():
                _log.info("not compiled ahead: %s (%s: %s)", name, type(error).__name__, error)


def begin_decoder(start: CompileStart, settings: Settings, config: CodecConfig) -> None:
    """Compile what the codec's fused decoding half starts."""
    num_slots = settings.max_slots

    def decoding_half() -> None:
        precision, ops = _fused_codec(start, settings)
        codec = codec_twin(config, precision.dtype, "decode")
        if ops.decode is None or why_not_fused(codec) is not None:
            return
        plan = fused_plan(
            settings.chunk_size, num_slots,
            batching=settings.codec_batching, has_graphs=settings.cuda_graphs,
        )  # fmt: skip
        fused = FusedDecoder(codec, ops.decode)
        fused.compile_for(plan.sizes(num_slots), fused.new_pool(num_slots + 1))

    start.begin("the codec's decoding half", decoding_half)


def begin_encoder(start: CompileStart, settings: Settings, config: CodecConfig) -> None:
    """Compile what the codec's fused encoding half starts; speech waits for a small one's alone."""

    def encoding_half() -> None:
        ops = _fused_codec(start, settings)[1].encode
        codec = codec_twin(config, torch.float32, "encode")
        if ops is None or settings.encoder_on_host or why_encoder_not_fused(codec) is not None:
            return
        num_bytes = sum(parameter.nbytes for parameter in codec.parameters())
        start.begin(
            "recordings", lambda: FusedEncoder(codec, ops).compile_for(COMPILED),
            is_later=num_bytes > MOST_EAGER_BYTES,
        )  # fmt: skip

    start.begin("the codec's encoding half", encoding_half)


def _fused_codec(start: CompileStart, settings: Settings) -> tuple[CodecPrecision, FusedChoice]:
    """The codec's format and operations of our own: what compiles cannot run anything meanwhile."""
    precision = choose_codec_precision(settings.codec_precision, start.device)
    if not settings.codec_fused:
        return precision, FusedChoice()
    return precision, find_fused_ops(precision, with_encoder=settings.codec_fused_encoder)


def begin_dual_ar(
    start: CompileStart, settings: Settings, precision: Precision, config: DualARConfig,
    codec: CodecConfig, tokenizer: Tokenizer,
) -> None:  # fmt: skip
    """Compile what prompts and decode steps start."""
    ids = (tokenizer.semantic_begin_id, tokenizer.num_semantic, tokenizer.im_end_id)

    def all_of_it() -> None:
        if why_no_fused_prompts(config, settings, precision.device) is not None:
            return
        twin = dual_ar_twin(settings, precision, config, codec, ids)
        is_resident = settings.resident_kernels and twin.why_not_resident() is None
        is_batch = settings.batch_kernels and twin.takes_batch_kernels()
        if is_resident:
            sizes = resident_sizes(
                only_batch_size(settings), is_batch=is_batch, is_int8=has_int8(twin.model)
            )
            start.begin("resident kernels", partial(twin.compile_resident, sizes))
        if is_batch:
            start.begin("batch kernels", twin.compile_batch_kernels)
        start.begin("prompts", twin.compile_prompts)
        twin.compile_steps(settings, is_resident=is_resident, is_batch=is_batch)

    start.begin("decode steps", all_of_it)
