"""Compiling from the first moment: twins are what is loaded, and no failure stops a start."""

# The operations are overridden without their types.
# pyright: reportIncompatibleMethodOverride=false, reportArgumentType=false

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backend import opt_engine
from backend.core.errors import ConfigurationError
from backend.core.settings import read_settings
from backend.engine import compile_start, encode_reference
from backend.engine.codec_precision import FusedChoice
from backend.engine.codec_setup import choose_codec_setup
from backend.engine.compile_start import CompileStart, begin_decoder, begin_encoder
from backend.engine.decode_frames import StreamDecoder
from backend.engine.encode_reference import COMPILED
from backend.engine.precision import Precision
from backend.engine.twins import codec_twin, dual_ar_twin
from backend.models.checkpoint import load_dual_ar
from backend.models.codec.fused.decoder import FusedDecoder
from backend.models.codec.fused.ops import TorchOps
from backend.models.codec.weights import load_codec, read_codec_config
from backend.models.config import CONFIG_FILE, DualARConfig
from backend.models.tokenizer import Tokenizer
from backend.opt_engine import OptimizedEngine
from tests.unit.models.codec_building import tiny_codec, tiny_config

POCKET = Path(__file__).parents[3] / "backend" / "pocket"
CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "latent_dim": 64, "dim": 64, "head_dim": 32, "n_head": 2, "decoder_dim": 384,
    "intermediate_size": 96, "window_size": 24, "encoder_dim": 16,
}  # fmt: skip
"""A codec that the kernels could run."""


def test_all_that_was_begun_is_waited_for_chains_of_chains_included():
    start, done, gate = CompileStart(CPU), list[str](), threading.Event()

    def inner() -> None:
        gate.wait(5)
        done.append("inner")

    def outer() -> None:
        start.begin("inner", inner)
        done.append("outer")

    start.begin("outer", outer)
    threading.Timer(0.05, gate.set).start()
    start.wait()
    assert sorted(done) == ["inner", "outer"]


def test_what_is_for_later_is_waited_for_at_the_end_alone():
    start, done, gate = CompileStart(CPU), list[str](), threading.Event()

    def recordings() -> None:
        gate.wait(5)
        done.append("recordings")

    start.begin("recordings", recordings, is_later=True)
    start.begin("steps", lambda: done.append("steps"))
    start.wait()
    assert done == ["steps"]
    assert not start.finish(0.0)
    gate.set()
    assert start.finish()
    assert done == ["steps", "recordings"]
    assert start.finish(0.0)


def test_a_closed_engine_leaves_nothing_behind_that_compiles(monkeypatch, caplog):
    seen: list[threading.Event] = []
    start, ended = CompileStart(CPU), threading.Event()

    @contextmanager
    def noting(*ends: threading.Event) -> Iterator[None]:
        seen.extend(ends)
        yield

    def recordings() -> None:
        assert seen[0].wait(5)
        ended.set()
        raise RuntimeError("it was given up")

    monkeypatch.setattr(compile_start, "loading", noting)
    with caplog.at_level(logging.INFO):
        start.begin("recordings", recordings, is_later=True)
        start.close()
    assert ended.is_set()
    assert not caplog.text
    start.close()


def test_a_chain_that_fails_is_told_and_stops_nothing(caplog):
    start, done = CompileStart(CPU), list[str]()

    def broken() -> None:
        raise RuntimeError("no compiler")

    with caplog.at_level(logging.INFO):
        start.begin("prompts", broken)
        start.begin("others", lambda: done.append("others"))
        start.wait()
    assert "not compiled ahead: prompts" in caplog.text
    assert "no compiler" in caplog.text
    assert done == ["others"]


def forms_of(tensors: Iterator[tuple[str, Tensor]]) -> dict[str, tuple[object, ...]]:
    return {name: (tuple(value.shape), value.dtype, value.stride()) for name, value in tensors}


@pytest.mark.parametrize("parts", ["decode", "encode"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_codecs_twin_has_the_forms_of_what_is_loaded(parts, dtype):
    loaded = load_codec(POCKET, CPU, dtype, parts)
    twin = codec_twin(read_codec_config(POCKET / "codec.safetensors"), dtype, parts)
    assert all(value.is_meta for value in twin.parameters())
    assert forms_of(twin.named_parameters()) == forms_of(loaded.named_parameters())


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_a_networks_twin_has_the_forms_of_what_is_loaded(quantization):
    tokenizer = Tokenizer.from_directory(POCKET)
    loaded = load_dual_ar(POCKET, CPU, torch.bfloat16, quantization=quantization, is_lean=True)
    settings = read_settings(None, quantization=quantization, max_slots=5, max_seq_len=300)
    precision = Precision(CPU, "bf16", torch.bfloat16, quantization=quantization)
    twin = dual_ar_twin(
        settings, precision, DualARConfig.from_file(POCKET / CONFIG_FILE),
        read_codec_config(POCKET / "codec.safetensors"),
        (tokenizer.semantic_begin_id, tokenizer.num_semantic, tokenizer.im_end_id),
    )  # fmt: skip
    assert forms_of(twin.model.named_parameters()) == forms_of(loaded.named_parameters())
    assert forms_of(twin.model.named_buffers()) == forms_of(loaded.named_buffers())
    assert twin.model.semantic_begin_id == loaded.semantic_begin_id
    assert twin.store.data.is_meta
    assert twin.store.max_positions == 300
    assert twin.state.pending.shape[0] == 6


class AskedOps(TorchOps):
    """Compiles nothing and notes what it was asked for."""

    def __init__(self) -> None:
        self.sizes: set[tuple[int, int]] = set()
        self.is_compiling = False

    @contextmanager
    def compiling(self) -> Iterator[bool]:
        self.is_compiling = True
        yield True
        self.is_compiling = False

    def product(self, streams, layer, source, **rest) -> None:
        if not self.is_compiling:
            super().product(streams, layer, source, **rest)
        elif source.rate == 1 and layer.has_gelu is False:
            self.sizes.add((source.data.shape[0], source.length))

    def look_up(self, codes, lookups, out) -> None:
        if not self.is_compiling:
            super().look_up(codes, lookups, out)

    def unit(self, *args, **rest) -> None:
        if not self.is_compiling:
            super().unit(*args, **rest)

    def depthwise(self, *args) -> None:
        if not self.is_compiling:
            super().depthwise(*args)

    def attend(self, *args) -> None:
        if not self.is_compiling:
            super().attend(*args)

    def sound(self, *args) -> None:
        if not self.is_compiling:
            super().sound(*args)


def fuse(monkeypatch, choice: FusedChoice) -> None:
    monkeypatch.setattr(compile_start, "find_fused_ops", lambda *_, **__: choice)


def test_the_codec_is_asked_for_the_sizes_that_its_streams_warm_up(monkeypatch):
    codec, ours, theirs = tiny_codec(**SIZES), AskedOps(), AskedOps()
    fuse(monkeypatch, FusedChoice(decode=ours))
    settings = read_settings(None, device="cpu", chunk_size=8, cuda_graphs=False, max_slots=5)
    setup = choose_codec_setup(settings, CPU)
    start = CompileStart(CPU)
    begin_decoder(start, settings, tiny_config(**SIZES))
    start.wait()
    fused = FusedDecoder(codec, theirs)
    StreamDecoder(codec, 5, setup.max_frames, batching=setup.batching, fused=fused).warm_up()
    assert len(theirs.sizes) > 5
    assert ours.sizes == theirs.sizes


@pytest.mark.parametrize("is_large", [True, False])
@pytest.mark.parametrize(("is_on_host", "expected"), [(True, []), (False, [COMPILED])])
def test_the_encoder_is_compiled_ahead_unless_it_stays_in_the_host(
    monkeypatch, is_on_host, expected, is_large
):
    gate = threading.Event()
    if is_large:
        monkeypatch.setattr(compile_start, "MOST_EAGER_BYTES", 0)
    else:
        gate.set()
    asked: list[object] = []
    monkeypatch.setattr(
        compile_start.FusedEncoder, "compile_for",
        lambda _, sizes: gate.wait(5) and asked.append(sizes),
    )  # fmt: skip
    fuse(monkeypatch, FusedChoice(encode=TorchOps()))
    settings = read_settings(None, device="cpu", encoder_on_host=is_on_host)
    start = CompileStart(CPU)
    begin_encoder(start, settings, tiny_config(**SIZES))
    start.wait()
    assert asked == ([] if is_large else expected)
    gate.set()
    start.finish()
    assert asked == expected


@pytest.mark.parametrize("codec_fused", [True, False])
def test_where_nothing_is_fused_nothing_is_compiled(monkeypatch, caplog, codec_fused):
    for each in (compile_start.FusedDecoder, compile_start.FusedEncoder):
        monkeypatch.setattr(each, "compile_for", lambda *_: pytest.fail("was compiled"))
    settings = read_settings(None, device="cpu", codec_fused=codec_fused)
    start = CompileStart(CPU)
    with caplog.at_level(logging.INFO):
        begin_decoder(start, settings, tiny_config(**SIZES))
        begin_encoder(start, settings, tiny_config(**SIZES))
        start.finish()
    assert not caplog.text


@pytest.mark.parametrize(
    ("device", "compile_ahead", "begins"),
    [("cuda:0", True, True), ("cuda:0", False, False), ("cpu", True, False)],
)
def test_it_is_for_cards_and_where_the_setting_says_so(monkeypatch, device, compile_ahead, begins):
    begun: list[str] = []
    monkeypatch.setattr(CompileStart, "_run", lambda _, name, __: begun.append(name))
    settings = read_settings(None, compile_ahead=compile_ahead)
    with CompileStart.of(settings, torch.device(device)) as start:
        start.begin("prompts", lambda: None)
    assert sorted(begun) == (["prompts", "the compiler itself", "the driver"] if begins else [])


def test_an_engine_begins_it_for_all_its_stages(monkeypatch):
    begun: list[str] = []
    monkeypatch.setattr(CompileStart, "_run", lambda _, name, __: begun.append(name))
    monkeypatch.setattr(CompileStart, "of", lambda _, device: CompileStart(device))
    settings = read_settings(None, model="pocket", device="cpu", max_slots=1, max_seq_len=256)
    OptimizedEngine.load(settings, POCKET).close()
    assert sorted(begun) == [
        "decode steps", "the codec's decoding half", "the codec's encoding half",
        "the compiler itself", "the driver",
    ]  # fmt: skip


def test_a_recording_that_comes_before_its_kernels_waits_for_them(monkeypatch):
    settings = read_settings(None, model="pocket", device="cpu", max_slots=1, max_seq_len=256)
    samples = np.sin(np.arange(3_000, dtype=np.float32) / 20)
    plain = OptimizedEngine.load(settings, POCKET)
    expected = plain.encode_reference(samples)
    plain.close()
    said, has_come = list[str](), threading.Event()
    finish = CompileStart.finish

    class Compiled:
        def __init__(self, *_: object) -> None:
            pass

        def compile_for(self, _: object) -> None:
            assert has_come.wait(30)
            said.append("compiled")

    class SayingOps(TorchOps):
        def compiling(self):
            said.append("used")
            return super().compiling()

    def saying_finish(start: CompileStart, timeout_s: float | None = None) -> bool:
        if timeout_s is None:
            has_come.set()
        return finish(start, timeout_s)

    fused = FusedChoice(encode=SayingOps())
    fuse(monkeypatch, fused)
    monkeypatch.setattr(compile_start, "FusedEncoder", Compiled)
    monkeypatch.setattr(CompileStart, "finish", saying_finish)
    monkeypatch.setattr(CompileStart, "of", lambda _, device: CompileStart(device))
    monkeypatch.setattr(
        opt_engine, "choose_codec_setup",
        lambda *args: replace(choose_codec_setup(*args), fused=fused),
    )  # fmt: skip
    for module in (compile_start, encode_reference):
        monkeypatch.setattr(module, "MOST_EAGER_BYTES", 0)
    engine = OptimizedEngine.load(settings, POCKET)
    assert said == []
    assert np.array_equal(engine.encode_reference(samples), expected)
    assert said[:2] == ["compiled", "used"]
    engine.close()


@pytest.mark.parametrize("was_enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_garbage_waits_and_is_collected_as_before_whatever_happens(was_enabled, fails):
    (gc.enable if was_enabled else gc.disable)()
    try:
        with suppress(ConfigurationError), CompileStart(CPU):
            assert not gc.isenabled()
            if fails:
                raise ConfigurationError("does not fit")
        assert gc.isenabled() == was_enabled
    finally:
        gc.enable()
