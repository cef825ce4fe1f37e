"""The resident kernel's own source, run on the CPU by ``tests/emulation``."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backend.core.types import SamplingParams
from backend.engine.attention import MaskedAttention, StepPlan
from backend.engine.decode_step import FrameDecoder, FrameSizes
from backend.engine.kv_store import KVStore
from backend.engine.noise import exponential_noise
from backend.engine.resident_pass import (
    FEW_ROWS,
    DrawArguments,
    PassArguments,
    PassSizes,
    ResidentPass,
    source,
    tiles_of,
)
from backend.engine.sampling import sample_codes
from backend.engine.slots import SlotState
from backend.engine.step_ops import module_ops
from backend.models.config import DualARConfig
from backend.models.dual_ar import DualAR
from backend.models.layers import TransformerBlock
from backend.models.quantization import linear_names, quantize_tensors, replace_linears

EMULATION = Path(__file__).parents[2] / "emulation"
SIZES = FrameSizes(num_codebooks=4, num_semantic=256, num_residual=64, semantic_begin_id=100)
NUM_BLOCKS = 8
POSITIONS = 64
CONFIG = {
    "vocab_size": 400, "n_layer": 2, "n_head": 4, "n_local_heads": 2, "head_dim": 128, "dim": 512,
    "intermediate_size": 512, "codebook_size": 256, "num_codebooks": 4, "max_seq_len": 128,
    "attention_qk_norm": True, "scale_codebook_embeddings": True, "n_fast_layer": 2,
    "fast_dim": 512, "fast_n_head": 8, "fast_n_local_heads": 4, "fast_head_dim": 64,
    "fast_intermediate_size": 512, "fast_attention_qk_norm": False,
}  # fmt: skip

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[PassSizes, int], ctypes.CDLL]:
    made: dict[tuple[PassSizes, int], ctypes.CDLL] = {}

    def compiled(sizes: PassSizes, space: int) -> ctypes.CDLL:
        if (sizes, space) not in made:
            folder = tmp_path_factory.mktemp("emulated")
            (folder / "resident_pass.cu").write_text(source())
            library = folder / "pass.so"
            defines = sizes.defines(sizes.fixed_bytes + space)
            command = [
                "g++", "-O1", "-std=c++17", "-w", "-shared", "-fPIC", f"-I{EMULATION}",
                f'-DRESIDENT_PASS="{folder / "resident_pass.cu"}"',
                *(f"-D{key}={value}" for key, value in defines.items()),
                str(EMULATION / "resident_pass.cpp"), "-o", str(library),
            ]  # fmt: skip
            subprocess.run(command, check=True)
            made[sizes, space] = ctypes.CDLL(str(library))
        return made[sizes, space]

    return compiled


# as many head groups as warps: each warp attends for itself where there is room
EIGHT_GROUPS = {"fast_n_head": 16, "fast_n_local_heads": 8}


def make_model(*, is_int8: bool, changes: dict[str, int] | None = None) -> DualAR:
    model = DualAR(DualARConfig.from_dict(CONFIG | (changes or {})))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            drawn = torch.empty(weight.shape).normal_(0, 0.06, generator=noise)
            weight.copy_(1 + drawn if "norm" in name else drawn)
    model.to(torch.bfloat16)
    if is_int8:
        tensors = quantize_tensors(model.state_dict(), linear_names(model), "int8")
        replace_linears(model, "int8")
        model.load_state_dict(tensors)
    model.bind_tokens(SIZES.semantic_begin_id, SIZES.num_semantic, 399)
    model.residual_size = SIZES.num_residual
    return model


def widened(model: DualAR, *, is_int8: bool, changes: dict[str, int] | None = None) -> DualAR:
    """The same numbers in float32."""
    wide = DualAR(DualARConfig.from_dict(CONFIG | (changes or {})))
    if is_int8:
        replace_linears(wide, "int8")
    wide.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    wide.bind_tokens(SIZES.semantic_begin_id, SIZES.num_semantic, 399)
    wide.residual_size = SIZES.num_residual
    return wide


class Room:
    """A decoder whose slots hold random keys and values."""

    def __init__(self, model: DualAR, lengths: list[int]) -> None:
        self.model, config = model, model.config
        dtype = model.embeddings.weight.dtype
        self.store = KVStore(
            config.n_layer, len(lengths), config.n_local_heads, POSITIONS, config.head_dim,
            torch.device("cpu"), dtype,
        )  # fmt: skip
        noise = torch.Generator().manual_seed(2)
        values = torch.randn(self.store.data.shape, generator=noise).to(torch.bfloat16)
        self.store.data.copy_(values)
        for slot, length in enumerate(lengths):
            self.store.set_length(slot, length)
        self.slots = torch.arange(len(lengths)).flip(0)
        self.state = SlotState(len(lengths), SIZES.num_codebooks, torch.device("cpu"))
        self.state.pending[:, 0] = torch.arange(len(lengths) + 1) * 7 + 100
        self.state.pending[:, 1:] = torch.arange(4) * 11
        self.decoder = FrameDecoder(
            module_ops(model), SIZES, self.store, self.state, MaskedAttention
        )

    @torch.inference_mode()
    def slow(self) -> tuple[torch.Tensor, torch.Tensor]:
        plan = StepPlan(len(self.slots), POSITIONS)
        hidden = self.decoder._slow(self.slots, self.store.lengths[self.slots], plan)
        return hidden, self.decoder.ops.semantic_logits(hidden)


def blocks(layers: torch.nn.Module) -> Sequence[TransformerBlock]:
    return [layer for layer in layers.children() if isinstance(layer, TransformerBlock)]


def error(value: torch.Tensor, exact: torch.Tensor) -> float:
    return float((value.float() - exact).norm() / exact.norm())


def launcher(build, space: int):
    def launch(sizes: PassSizes, args: PassArguments) -> None:
        build(sizes, space).run_resident_pass(ctypes.byref(args))

    return launch


# bytes of shared memory for weights: little, or all that a layer needs
@pytest.mark.parametrize(
    ("lengths", "is_int8", "space"),
    [([37], False, 300_000),
     pytest.param([5, 0, 63], False, 430_000, marks=pytest.mark.slow),
     pytest.param([9] * 9 + [40], False, 350_000, marks=pytest.mark.slow),
     pytest.param([37, 12], True, 190_000, marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_slow_pass_is_as_near_to_float32_as_the_plain_step(build, lengths, is_int8, space):
    model = make_model(is_int8=is_int8)
    exact = Room(widened(model, is_int8=is_int8), lengths)
    hidden, logits = exact.slow()
    plain = Room(model, lengths)
    plain_hidden, plain_logits = plain.slow()
    room = Room(model, lengths)
    config, count = model.config, len(lengths)
    sizes = PassSizes(
        config.slow_block, SIZES.num_semantic + 1, is_slow=True, is_int8=is_int8,
        num_tiles=tiles_of(count), is_few=count <= FEW_ROWS, num_blocks=NUM_BLOCKS,
    )  # fmt: skip
    assert model.semantic_head is not None
    assert sizes.misfit(sizes.fixed_bytes + space) is None
    slow = ResidentPass(
        blocks(model.layers), sizes, rope=model.rope, cache=room.store.data,
        cache_strides=(POSITIONS * config.head_dim, room.store.data.stride(2)),
        head_norm=model.norm.weight, head=model.semantic_head, launch=launcher(build, space),
    )  # fmt: skip
    x = room.decoder.ops.embed(room.state.pending[room.slots])
    got = torch.empty(0)
    for _ in range(2):  # the second time with stamps of the first in the mailboxes
        got = torch.full((count, 2 * config.dim), float("nan"), dtype=torch.bfloat16)
        got_logits = torch.full((count, SIZES.num_semantic + 1), float("nan")).bfloat16()
        slow.run_slow(x, room.slots, room.store.lengths, got_logits, got, 2 * config.dim)
        assert error(got[:, : config.dim], hidden) <= 1.2 * error(plain_hidden, hidden) + 1e-3
        assert error(got_logits, logits) <= 1.2 * error(plain_logits, logits) + 1e-3
    assert bool(got[:, config.dim :].isnan().all())
    # the cache gained the new position, and nothing else changed
    bound = error(plain.store.data, exact.store.data)
    assert error(room.store.data, exact.store.data) <= 1.2 * bound + 1e-3
    changed = (room.store.data != Room(model, lengths).store.data).any(dim=-1)  # [2, L, G, R]
    for slot, length in enumerate(lengths):
        rows = changed[..., slot * POSITIONS : (slot + 1) * POSITIONS]
        assert bool(rows[..., length].all())
        assert int(rows.sum()) == rows[..., length].numel()


TAKES = (
    SamplingParams(temperature=0.0, repetition_penalty=1.3),
    SamplingParams(temperature=0.9, top_p=0.6, repetition_penalty=1.1, seed=5),
    SamplingParams(temperature=1.0, top_k=5, top_p=1.0, seed=-3),
)


@pytest.mark.parametrize(
    ("num_rows", "is_int8", "space", "changes"),
    [(1, True, 430_000, EIGHT_GROUPS), (2, True, 190_000, {}),
     pytest.param(2, True, 430_000, EIGHT_GROUPS, marks=pytest.mark.slow),
     pytest.param(3, False, 430_000, {}, marks=pytest.mark.slow),
     pytest.param(6, False, 300_000, {}, marks=pytest.mark.slow)],
)  # fmt: skip
@torch.inference_mode()
def test_the_fast_passes_draw_from_logits_as_near_to_float32_as_the_plain_ones(
    build, num_rows, is_int8, space, changes
):
    model = make_model(is_int8=is_int8, changes=changes)
    wide = widened(model, is_int8=is_int8, changes=changes)
    exact, plain = (Room(each, [1] * num_rows) for each in (wide, model))
    config, state, slots = model.config, plain.state, plain.slots
    noise = torch.Generator().manual_seed(3)
    for slot in range(num_rows):
        state.begin(slot, torch.zeros(5, dtype=torch.int64), TAKES[slot % len(TAKES)])
    recent = torch.randint(0, SIZES.num_residual, state.recent.shape, generator=noise)
    state.recent.copy_(recent)
    sizes = PassSizes(
        config.fast_block, SIZES.num_residual, is_slow=False, is_int8=is_int8, num_tiles=1,
        is_few=num_rows <= FEW_ROWS, num_blocks=NUM_BLOCKS,
    )  # fmt: skip
    assert sizes.misfit(sizes.fixed_bytes + space) is None
    groups = config.fast_n_local_heads
    cache = torch.full((2, 2, num_rows, groups, 4, 64), float("nan")).bfloat16()
    fast = ResidentPass(
        blocks(model.fast_layers), sizes, rope=model.fast_rope, cache=cache,
        cache_strides=(cache.stride(2), cache.stride(3)),
        head_norm=model.fast_norm.weight, head=model.fast_output.weight,
        launch=launcher(build, space),
    )  # fmt: skip
    x = torch.randn(num_rows, 2, config.fast_dim, generator=noise).to(torch.bfloat16)
    codes = torch.full((num_rows, 4), -1)
    rows = state.sampling
    draws = DrawArguments(
        seeds=state.seeds.data_ptr(), steps=state.steps.data_ptr(),
        temperature=rows.temperature.data_ptr(), greedy=rows.greedy.data_ptr(),
        top_p=rows.top_p.data_ptr(), top_k=rows.top_k.data_ptr(),
        penalty=rows.repetition_penalty.data_ptr(), window=state.window.data_ptr(),
        recent=state.recent.data_ptr(), embeddings=model.fast_embeddings.weight.data_ptr(),
        codes=codes.data_ptr(), first_draw=SIZES.draws[0], codebooks=4, width=recent.shape[2],
    )  # fmt: skip
    for _ in range(2):
        codes.fill_(-1)
        fast.run_fast(x.flatten(0, 1), slots, draws)
    assert codes[:, 0].tolist() == [-1] * num_rows
    # the plain passes over the same codes
    numbers = exponential_noise(state.seeds[slots], state.steps[slots], sum(SIZES.draws))
    numbers = numbers.split(SIZES.draws, dim=1)
    rooms = [each.decoder._new_fast_room(x.to(each.store.data.dtype)) for each in (exact, plain)]
    inputs, start, num_equal = x, 0, 0
    for codebook in (1, 2, 3):
        wanted, usual = (
            each.decoder._fast(inputs.to(each.store.data.dtype), start, room)
            for each, room in zip((exact, plain), rooms, strict=True)
        )
        expected = sample_codes(
            wanted, numbers[codebook], rows.rows(slots, has_cut=True, has_penalty=True),
            state.recent_of(slots)[:, codebook],
        )  # fmt: skip
        num_equal += int((codes[:, codebook] == expected).sum())
        inputs = model.fast_embeddings.weight[codes[:, codebook]][:, None]
        start = codebook + 1
    assert num_equal >= 3 * num_rows - 1  # bfloat16 may turn a near tie
    letters = fast._boxes["box_logits"].view(torch.int32)[::2].contiguous().view(torch.bfloat16)
    got = letters.view(-1, SIZES.num_residual)[:num_rows]
    assert error(got, wanted) <= 1.2 * error(usual, wanted) + 1e-3


def test_a_launch_cuts_attention_into_a_power_of_two_of_splits():
    model = make_model(is_int8=False)
    room, config = Room(model, [3] * 3), model.config
    sizes = PassSizes(
        config.slow_block, SIZES.num_semantic + 1, is_slow=True, is_int8=False, num_tiles=1,
        num_blocks=32,
    )  # fmt: skip
    seen: list[int] = []
    assert model.semantic_head is not None
    slow = ResidentPass(
        blocks(model.layers), sizes, rope=model.rope, cache=room.store.data,
        cache_strides=(POSITIONS * config.head_dim, room.store.data.stride(2)),
        head_norm=model.norm.weight, head=model.semantic_head,
        launch=lambda sizes, args: seen.append(args.splits),
    )  # fmt: skip
    x = torch.zeros(3, config.dim, dtype=torch.bfloat16)
    for rows in (1, 2, 3):  # 16, 8 and 5 blocks a head group
        slow.run_slow(x[:rows], room.slots[:rows], room.store.lengths, x, x, config.dim)
    assert seen == [16, 8, 4]


def test_networks_that_a_launch_has_no_stamps_for_are_refused():
    block = replace(DualARConfig.from_dict(CONFIG).fast_block, n_layer=7)
    sizes = PassSizes(
        block, SIZES.num_residual, is_slow=False, is_int8=True, num_tiles=1, num_blocks=NUM_BLOCKS
    )
    assert sizes.misfit(sizes.fixed_bytes + 430_000) == "it has too many layers"
    block = replace(block, n_layer=6)
    assert replace(sizes, block=block).misfit(sizes.fixed_bytes + 430_000) is None
