"""The engine: three stages on one device behind one facade.

    reference samples --encode_reference--> codes
    text + codes      --prefill, decode_step--> codes, a frame at a time
    codes             --decode_frames--> samples

One thread owns an engine; nothing here locks. Sequences are stepped together, and each draws what
it draws alone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.core.contract import FrameChunk
from backend.core.types import EngineInfo, SamplingParams, Turn
from backend.engine.backends import set_allocator
from backend.engine.card_kernels import kv_bits, scratch_positions, why_no_fused_prompts
from backend.engine.codec_setup import choose_codec_setup
from backend.engine.compile_start import CompileStart, begin_decoder, begin_dual_ar, begin_encoder
from backend.engine.decode_step import FrameSizes
from backend.engine.dense_memory import make_dense
from backend.engine.exchange import exchange_with
from backend.engine.kv_store import KVStore
from backend.engine.lanes import num_streams_of
from backend.engine.loaded_model import LoadedModel
from backend.engine.memory import plan_for, require_fit
from backend.engine.precision import Precision, choose_precision, cpu_threads
from backend.engine.prefill import max_prompt_positions
from backend.engine.prefix_cache import (
    BYTES_PER_MIB,
    PrefixCache,
    Prompt,
    prefill_with_prefixes,
)
from backend.engine.prompts import choose_prefill
from backend.engine.rehearsal import Rehearsal
from backend.engine.slots import SlotPool, SlotState
from backend.engine.stepping import Stepper
from backend.engine.steps import choose_steps
from backend.models.nf4_kernels import use_nf4_kernels
from backend.models.prompt import build_prompt, turn_ends
from backend.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from backend.core.contract import FramesInWork, StageTiming, StepResult
    from backend.core.settings import Settings
    from backend.core.types import CacheCounters
    from backend.engine.codec_setup import CodecSetup
    from backend.models.dual_ar import DualAR

WARM_UP_TEXT = "Hello."
PREFIXES = "prefix_kv"
"""Name of the cache of known prompts."""


class OptimizedEngine:
    """Fulfills ``core.contract.Engine`` with the real networks.

    Life: ``load`` -> ``warm_up`` -> any number of sequences -> ``close``. Every call comes from
    the one thread that owns the engine.
    """

    def __init__(
        self,
        model: LoadedModel,
        precision: Precision,
        codec_setup: CodecSetup,
        settings: Settings,
        start: CompileStart | None = None,
    ) -> None:
        self._start = start or CompileStart(precision.device)
        self._model = model
        self._precision = precision
        self._codec_setup = codec_setup
        self._streams, stream_notes = codec_setup.stream_decoder(model.codec, settings.max_slots)
        make_dense(precision.device, (model, self._streams))
        config = model.dual_ar.config
        self._max_positions = min(config.max_seq_len, settings.max_seq_len)
        device = precision.device
        num_semantic, num_residual = model.codec.codebook_sizes[:2]
        begin_id = model.tokenizer.semantic_begin_id
        model.dual_ar.bind_tokens(begin_id, num_semantic, model.tokenizer.im_end_id)
        sizes = FrameSizes(config.num_codebooks, num_semantic, num_residual, begin_id)
        self._has_codec_lane = num_streams_of(settings) > 1 and device.type == "cuda"
        self._slots = SlotPool(settings.max_slots)
        num_bits, kv_notes = kv_bits(config, settings, device)
        nf4_notes = _prepare_nf4(model.dual_ar, precision, settings)
        self._store = KVStore(
            config.n_layer,
            settings.max_slots,
            config.n_local_heads,
            self._max_positions,
            config.head_dim,
            device,
            precision.dtype,
            scratch_positions(config, settings, device),
            num_bits,
        )
        self._state = SlotState(settings.max_slots, config.num_codebooks, device)
        self._prefixes = PrefixCache(settings.prefix_cache_mb * BYTES_PER_MIB)
        room = codec_setup.step_room
        self._steps = choose_steps(model.dual_ar, sizes, self._store, self._state, settings, room)
        self._prefill = choose_prefill(model.dual_ar, self._store, settings, room)
        exchange = exchange_with(device, self._state.landing, is_landed=self._steps.lands_codes)
        self._stepper = Stepper(
            self._steps.run, self._slots, self._store, exchange, config.num_codebooks,
            num_semantic, self._steps.batch_sizes, self._steps.bound_of,
            knows_rows=device.type == "cpu",
        )  # fmt: skip
        self._notes = (
            *precision.notes, *nf4_notes, *kv_notes, *self._steps.notes,
            *codec_setup.notes, *stream_notes,
        )  # fmt: skip
        self._info = self._describe()
        self._timings: tuple[StageTiming, ...] = ()

    @classmethod
    def load(cls, settings: Settings, directory: Path) -> OptimizedEngine:
        """Load the model of ``directory``.

        Raises:
            ConfigurationError: Device, settings or files do not fit; the message says which.
        """
        precision = choose_precision(settings)
        torch.set_num_threads(cpu_threads(settings))
        set_allocator(settings, precision.device)
        with CompileStart.of(settings, precision.device) as start:
            plan = plan_for(settings, precision, directory)
            require_fit(plan, settings.memory_budget_mb, precision.device)
            begin_decoder(start, settings, plan.codec)
            tokenizer = Tokenizer.from_directory(directory)
            begin_dual_ar(start, settings, precision, plan.config, plan.codec, tokenizer)
            begin_encoder(start, settings, plan.codec)
            codec_setup = choose_codec_setup(settings, precision.device, start.finish)
            model = LoadedModel.load(
                settings.model, directory, precision, codec_setup, plan.by_part(), tokenizer
            )
        return cls(model, precision, codec_setup, settings, start)

    @property
    def info(self) -> EngineInfo:
        """Facts that do not change."""
        return self._info

    @property
    def max_slots(self) -> int:
        """Sequences that can be held at once."""
        return self._slots.max_slots

    def warm_up(self) -> None:
        """Run every stage, so that the first request does not pay for first calls, and time it."""
        codes = np.zeros((self._info.num_codebooks, 2), dtype=np.int32)
        if self._model.encoder.is_loaded:  # a large one waits for a quiet moment
            codes = self.encode_reference(np.zeros(self._info.frame_length * 2, dtype=np.float32))
        turn = Turn(WARM_UP_TEXT, codes)
        self._streams.warm_up()
        self._steps.warm_up(self.max_slots)
        self._prefill.warm_up()
        slot = self.prefill(WARM_UP_TEXT, [turn], SamplingParams(temperature=0.0))
        for _ in range(2):
            self.decode_step([slot])
        self.decode_frames([FrameChunk(slot, turn.codes)])
        self.release(slot)
        self._timings = Rehearsal(self).run()
        self._prefixes.reset()

    def warm_up_timings(self) -> Sequence[StageTiming]:
        """Give what calls of several sizes took once they were warm."""
        return self._timings

    def prepare_one(self) -> bool:
        """Do one thing that ``warm_up`` put off; False when there is none left.

        On a card: load the codec's encoder, capture a graph of it or of the codec's decoding half.
        """
        if not self._model.encoder.has_kernels() and self._streams.prepare_one():
            return True
        with self._codec_setup.lane.working():  # see ``encode_reference``
            is_encoder_busy = self._model.encoder.prepare_one()
        return is_encoder_busy or self._streams.prepare_one()

    def encode_reference(self, samples: NDArray[np.float32]) -> NDArray[np.int32]:
        """Turn ``[S]`` float32 samples into codes ``[K, F]``, ``F = ceil(S / frame_length)``."""
        lane = self._codec_setup.lane
        lane.catch_up()
        with lane.working():  # it shares its room with the codec's other half
            return self._model.encoder.encode(samples)

    def prompt_length(self, text: str, turns: Sequence[Turn]) -> int:
        """Positions that a prompt of ``turns`` and then ``text`` takes."""
        return self._prompt_rows(text, turns).shape[1]

    def open_slot(self) -> int:
        """Take a slot for codec work alone."""
        return self._slots.take()

    @torch.inference_mode()
    def prefill(self, text: str, turns: Sequence[Turn], sampling: SamplingParams) -> int:
        """Take a slot and run the prompt through the slow transformer.

        Raises:
            PromptTooLongError: The prompt leaves too little room for speech.
        """
        return self.prefill_many([(text, turns, sampling)])[0]

    @torch.inference_mode()
    def prefill_many(
        self, asked: Sequence[tuple[str, Sequence[Turn], SamplingParams]]
    ) -> list[int]:
        """Take slots for several prompts and run these together; as ``prefill`` for each.

        Raises:
            PromptTooLongError: A prompt leaves too little room for speech; no slot is taken.
            GenerationError: There are fewer free slots than prompts; likewise.
        """
        slots: list[int] = []
        try:
            prompts = [self._open_prompt(slots, text, turns) for text, turns, _ in asked]
            prefill_with_prefixes(self._prefill.run_many, prompts, self._prefixes)
            for slot_idx, prompt, (_, _, sampling) in zip(slots, prompts, asked, strict=True):
                self._state.begin(slot_idx, prompt.rows[:, -1], sampling)
                self._slots[slot_idx].sampling = sampling
        except BaseException:
            for slot_idx in slots:
                self._slots.give_back(slot_idx)
            raise
        return slots

    def _open_prompt(self, slots: list[int], text: str, turns: Sequence[Turn]) -> Prompt:
        """Lay out a prompt, take a slot for it and note that."""
        rows = self._prompt_rows(text, turns)
        slots.append(self._slots.take())
        self._store.set_length(slots[-1], 0)
        ends = turn_ends(self._model.tokenizer, turns)
        return Prompt(rows, ends, self._store.view(slots[-1]))

    @torch.inference_mode()
    def decode_step(self, slots: Sequence[int]) -> list[StepResult]:
        """Make one frame for each of ``slots``, in their order."""
        return self._stepper.step(slots)

    @torch.inference_mode()
    def replace_frame(self, slot: int, codes: NDArray[np.int32]) -> None:
        """Go on as if ``codes`` ``[K]`` had been drawn last: to compare what comes behind it."""
        self._state.replace_frame(slot, codes, self._model.tokenizer.semantic_begin_id)

    def decode_frames(self, chunks: Sequence[FrameChunk]) -> list[NDArray[np.float32]]:
        """Turn the next frames of several slots into ``[F * frame_length]`` float32 samples each.

        The codec sees at most ``CHUNK_SIZE`` frames of a slot at a time, and slots with equally
        many together; the samples depend on neither.
        """
        return self.begin_frames(chunks).collect()

    def decodes_beside(self, num_rows: int) -> bool:
        """Whether steps of so many rows leave the codec room on the device (``NUM_STREAMS``)."""
        return self._has_codec_lane and num_rows > max(1, self._steps.resident_rows)

    def begin_frames(self, chunks: Sequence[FrameChunk]) -> FramesInWork:
        """Begin what ``decode_frames`` does; the samples are collected later."""
        self._slots.require([chunk.slot for chunk in chunks])
        return self._streams.begin(chunks)

    def release(self, slot: int) -> None:
        """Give a slot back."""
        self._slots.give_back(slot)
        self._streams.release(slot)

    def memory_bytes(self) -> tuple[int | None, int | None]:
        """Device memory now and at its peak; None on a CPU."""
        device = self._precision.device
        if device.type != "cuda":
            return None, None
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)

    def cache_counters(self) -> dict[str, CacheCounters]:
        """What the cache of known prompts holds and has done."""
        return {PREFIXES: self._prefixes.counters}

    def clear_caches(self) -> dict[str, int]:
        """Forget known prompts; gives the entries dropped."""
        return {PREFIXES: self._prefixes.clear()}

    def close(self) -> None:
        """Free the slots; the weights go with the object."""
        self._start.close()
        self._prefixes.clear()
        self._slots.clear()

    def _prompt_rows(self, text: str, turns: Sequence[Turn]) -> Tensor:
        return build_prompt(self._model.tokenizer, text, turns, self._model.codec.num_codebooks)

    def _describe(self) -> EngineInfo:
        model, codec = self._model, self._model.codec
        return EngineInfo(
            model=model.name,
            revision=_short_hash(f"{model.revision} {self._precision.format_name}"),
            sample_rate=codec.sample_rate,
            frame_length=codec.frame_length,
            codebook_sizes=tuple(codec.codebook_sizes),
            max_positions=self._max_positions,
            max_prompt_positions=max_prompt_positions(self._max_positions),
            device=str(self._precision.device),
            precision=self._precision.name,
            sampling=model.sampling,
            notes=self._notes,
            quantization=self._precision.quantization,
            memory_plan=model.memory_plan,
        )


def _prepare_nf4(model: DualAR, precision: Precision, settings: Settings) -> tuple[str, ...]:
    """Choose how NF4 weights are multiplied where the fused kernels do not; what to tell people."""
    is_fused = why_no_fused_prompts(model.config, settings, precision.device) is None
    if precision.quantization != "nf4" or is_fused:
        return ()
    return (use_nf4_kernels(model, precision.device, precision.dtype),)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
