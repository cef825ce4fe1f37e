"""The memory plan: counted like the real thing, and refused with a way out."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backend.core.errors import ConfigurationError
from backend.core.settings import read_settings
from backend.engine import memory
from backend.engine.codec_setup import choose_codec_setup
from backend.engine.decode_frames import fused_plan
from backend.engine.host_memory import (
    available_host_bytes,
    container_available,
    meminfo_available,
)
from backend.engine.loaded_model import LoadedModel
from backend.engine.memory import MemoryPlan, fitting_changes, free_budget, plan_for, require_fit
from backend.engine.precision import choose_precision
from backend.engine.twins import codec_twin
from backend.models.codec.config import S1_MINI as S1_CODEC
from backend.models.codec.fused.network import DecoderNetwork
from backend.models.codec.fused.ops import TorchOps
from backend.models.codec.fused.state import Streams
from backend.models.config import DualARConfig
from backend.opt_engine import OptimizedEngine
from tests.parity.full_checkpoint import S1_MINI

POCKET = Path(__file__).resolve().parents[3] / "backend" / "pocket"
CPU = torch.device("cpu")
MIB = 1 << 20


def pocket_plan(**values: object) -> MemoryPlan:
    settings = read_settings(None, device="cpu", **values)
    return plan_for(settings, choose_precision(settings), POCKET)


def s1_plan(**values: object) -> MemoryPlan:
    plan = MemoryPlan(
        config=DualARConfig.from_dict(S1_MINI),
        codec=S1_CODEC,
        dtype=torch.bfloat16,
        quantization="none",
        max_slots=4,
        max_positions=4096,
        chunk_frames=32,
        on_cuda=True,
        codec_dtype=torch.float16,
    )
    return replace(plan, **values)


class CountedOps(TorchOps):
    """Operations that take memory and do nothing else."""

    def __init__(self) -> None:
        self.live = self.peak = 0

    def room(self, shape: tuple[int, int, int], like: torch.Tensor) -> torch.Tensor:
        room = super().room(shape, like)
        self._count(room.nbytes)
        weakref.finalize(room, self._count, -room.nbytes)
        return room

    def _count(self, num_bytes: int) -> None:
        self.live += num_bytes
        self.peak = max(self.peak, self.live)

    def _nothing(self, *_: object, **__: object) -> None:
        pass

    look_up = product = depthwise = attend = sound = _nothing  # pyright: ignore[reportAssignmentType]


def held_bytes(module: torch.nn.Module) -> int:
    held = {value.data_ptr(): value for value in [*module.parameters(), *module.buffers()]}
    return sum(value.numel() * value.element_size() for value in held.values())


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
@pytest.mark.parametrize(("precision", "codec"), [("fp32", "fp32"), ("bf16", "fp16")])
def test_weights_and_slots_are_those_of_the_loaded_model(
    quantization: str, precision: str, codec: str
) -> None:
    values = {"quantization": quantization, "mixed_precision": precision, "max_seq_len": 512}
    values["codec_precision"] = codec
    settings = read_settings(None, device="cpu", **values)
    chosen = choose_precision(settings)
    model = LoadedModel.load("pocket", POCKET, chosen, choose_codec_setup(settings, chosen.device))
    plan = plan_for(settings, chosen, POCKET)
    assert plan.weight_bytes == held_bytes(model.dual_ar)
    assert plan.codec_bytes == held_bytes(model.codec) + model.encoder.num_bytes
    state = model.codec.new_decode_state(1)
    state_bytes = sum(value.numel() * value.element_size() for value in state.tensors())
    assert plan.slot_bytes == 512 * plan.kv_bytes_per_position + state_bytes


def test_s1_mini_has_its_known_sizes() -> None:
    plan = s1_plan()
    assert plan.kv_bytes_per_position == 114_688
    # 1,720,338,432 bytes of tensors, of the head only what speech asks for, two rotary tables
    extra = (4097 - 155_776) * 1024 * 2 + (8192 * 64 * 2 + 10 * 32 * 2) * 4
    assert plan.weight_bytes == 1_720_338_432 + extra
    text, codes = 155_776 * 1024 * 2, 40_960 * 1024 * 2
    assert plan.weight_bytes - s1_plan(host_embeddings="text").weight_bytes == text
    assert plan.weight_bytes - s1_plan(host_embeddings="all").weight_bytes == text + codes
    encoder = 206_934_000  # parameters, in float32
    saved = plan.codec_bytes - s1_plan(is_encoder_on_host=True).codec_bytes
    assert saved == pytest.approx(4 * encoder, rel=0.01)
    assert plan.total_bytes == sum(plan.by_part().values())


def test_fewer_bits_take_less() -> None:
    sizes = [s1_plan(quantization=name).weight_bytes for name in ("none", "int8", "nf4")]
    linear = 490_733_568  # weights of the layers' linears
    assert sizes[0] - sizes[1] == pytest.approx(linear, rel=0.01)
    assert sizes[0] - sizes[2] == pytest.approx(linear * (2 - 0.5 - 2 / 64), rel=0.01)


@pytest.mark.parametrize("budget_mb", [8_000, 5_000, 4_000, 3_600])
def test_each_proposed_change_fits_and_no_larger_value_does(budget_mb: int) -> None:
    plan, budget = s1_plan(max_slots=16), budget_mb * MIB
    changes = fitting_changes(plan, budget)
    assert changes or budget_mb <= 4_000
    for change in changes:
        key, value = change.split("=")
        if key == "QUANTIZATION":
            assert replace(plan, quantization=value).total_bytes <= budget
            continue
        if key == "ENCODER_ON_HOST":
            assert replace(plan, is_encoder_on_host=True).total_bytes <= budget
            continue
        if key == "CHUNK_SIZE":
            assert replace(plan, chunk_frames=int(value)).total_bytes <= budget
            continue
        name, step = {"MAX_SLOTS": ("max_slots", 1), "MAX_SEQ_LEN": ("max_positions", 256)}[key]
        assert replace(plan, **{name: int(value)}).total_bytes <= budget
        assert replace(plan, **{name: int(value) + step}).total_bytes > budget


def test_a_plan_that_fits_is_accepted() -> None:
    plan = pocket_plan()
    require_fit(plan, plan.total_bytes // MIB + 1, CPU)


@pytest.mark.parametrize(
    ("budget_mb", "advice"),
    [
        (5_300, "Each of these would fit: MAX_SLOTS=3, MAX_SEQ_LEN="),
        (5_300, "QUANTIZATION=int8, QUANTIZATION=nf4, ENCODER_ON_HOST=true"),
        (3_800, "MAX_SLOTS=1 together with MAX_SEQ_LEN="),
        (3_200, "and QUANTIZATION=nf4 would fit"),
        (1_000, "Even QUANTIZATION=nf4 with one slot takes"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_with_what_would(budget_mb: int, advice: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        require_fit(s1_plan(), budget_mb, CPU)
    assert advice in str(caught.value)
    assert f"MEMORY_BUDGET_MB={budget_mb}" in str(caught.value)


def test_an_engine_beyond_its_budget_does_not_start() -> None:
    values = {"cpu_threads": 1, "memory_budget_mb": 400, "prefix_cache_mb": 0}
    settings = read_settings(None, device="cpu", **values)
    with pytest.raises(ConfigurationError, match=r"does not fit.*MAX_SLOTS=2"):
        OptimizedEngine.load(settings, POCKET)


def test_the_engine_tells_its_plan() -> None:
    settings = read_settings(None, device="cpu", cpu_threads=1, max_seq_len=256, max_slots=1)
    engine = OptimizedEngine.load(settings, POCKET)
    assert (
        engine.info.memory_plan == plan_for(settings, choose_precision(settings), POCKET).by_part()
    )
    engine.close()


def test_nine_tenths_of_the_free_memory_are_planned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_host_bytes", lambda: 1000)
    assert free_budget(CPU) == 900
    with pytest.raises(ConfigurationError, match="90% of what is free on cpu"):
        require_fit(pocket_plan(), 0, CPU)


def test_a_host_that_does_not_tell_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_host_bytes", lambda: None)
    assert free_budget(CPU) is None
    require_fit(s1_plan(max_slots=128), 0, CPU)


def test_a_capped_card_is_planned_with_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70_000, 80_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1_000)
    share = [1.0]
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: share[0])
    card = torch.device("cuda:0")
    assert free_budget(card) == 63_000
    share[0] = 0.05
    assert free_budget(card) == 2_700


def test_the_host_is_read(tmp_path: Path) -> None:
    found = available_host_bytes()
    assert found is None or found > MIB
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  100 kB\nMemAvailable:    77 kB\n")
    assert meminfo_available(meminfo) == 77 << 10
    assert meminfo_available(tmp_path / "absent") is None


@pytest.mark.parametrize(("limit", "left"), [("4096", 3096), ("500", 0), ("max", None)])
def test_a_container_counts_its_own_limit(tmp_path: Path, limit: str, left: int | None) -> None:
    (tmp_path / "limit").write_text(limit + "\n")
    (tmp_path / "used").write_text("1000\n")
    assert container_available(tmp_path / "limit", tmp_path / "used") == left
    assert container_available(tmp_path / "no", tmp_path / "used") is None


def test_keys_and_values_in_fewer_bits_take_a_half_and_a_quarter() -> None:
    whole, half, quarter = (s1_plan(kv_bits=bits).kv_bytes_per_position for bits in (16, 8, 4))
    scales = 28 * 2 * 8 * 2  # one float16 a head of keys and of values
    assert half == whole // 2 + scales
    assert quarter == whole // 4 + scales


@pytest.mark.parametrize("chunk_size", [8, 32, 512])
@pytest.mark.parametrize("num_slots", [4, 128])
def test_the_fused_decoder_keeps_to_the_plan_of_the_modules(chunk_size: int, num_slots: int):
    network = DecoderNetwork(codec_twin(S1_CODEC, torch.float16, "decode"))
    plan = fused_plan(chunk_size, num_slots, batching=True, has_graphs=True)
    batch, frames = max(plan.sizes(num_slots), key=lambda size: size[0] * size[1])
    rows = torch.zeros(batch, dtype=torch.int64, device="meta")
    ops = CountedOps()
    codes = rows.new_zeros(batch, network.config.num_codebooks, frames)
    network.run(ops, codes, Streams(network.new_pool(1), rows, rows))
    planned = s1_plan(chunk_frames=chunk_size).workspace_bytes
    # once in the room of the graphs, and once beside it while a size has no graph
    assert 0 < 2 * ops.peak <= planned
