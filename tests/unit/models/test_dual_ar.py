from __future__ import annotations

from ast import literal_eval
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backend.models.checkpoint import load_dual_ar
from backend.models.config import DualARConfig
from backend.models.dual_ar import DualAR
from backend.models.prompt import build_prompt
from backend.models.tokenizer import Tokenizer
from tests.parity.full_checkpoint import S1_MINI
from tests.parity.speaking import GrowingStore, fast_logits, speak
from tests.parity.tiny_checkpoint import CODEBOOK_SIZE, codes_like_noise
from tests.unit.models.conftest import POCKET

DATA = Path(__file__).resolve().parents[2] / "data"
K = 10


@pytest.fixture(scope="module", params=["tiny_directory", "turned_directory"])
def model(request: pytest.FixtureRequest) -> DualAR:
    directory: Path = request.getfixturevalue(request.param)
    return load_dual_ar(directory, "cpu", torch.float32)


def some_rows(model: DualAR, num_text: int, num_frames: int, name: str = "rows") -> Tensor:
    """``[1 + K, T]``: text, then audio."""
    text = torch.zeros(1 + K, num_text, dtype=torch.int64)
    text[0] = torch.arange(num_text) * 3 + 40
    codes = codes_like_noise(name, num_frames)
    return torch.cat((text, torch.cat((codes[:1] + model.semantic_begin_id, codes))), dim=1)


@torch.inference_mode()
def prefill(model: DualAR, rows: Tensor) -> Tensor:
    return model.slow(rows[None], torch.arange(rows.shape[1])[None], GrowingStore())[0]


def test_every_s1_mini_tensor_has_its_name_and_shape() -> None:
    with torch.device("meta"):
        model = DualAR(DualARConfig.from_dict(S1_MINI))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    lines = (DATA / "s1_model_keys.txt").read_text(encoding="utf-8").splitlines()
    official = {name: literal_eval(shape) for name, shape in (line.split("\t") for line in lines)}
    assert len(official) == 287
    assert shapes == official
    assert sum(value.numel() for value in model.parameters()) == 860_169_216
    assert model.residual_size == 1024


@torch.inference_mode()
def test_shapes_and_types_are_the_documented_ones(model: DualAR) -> None:
    config, rows = model.config, some_rows(model, 4, 3)
    batch = torch.stack((rows, rows))
    positions = torch.arange(7).expand(2, 7)
    assert model.embed(batch).shape == (2, 7, config.dim)
    hidden = model.slow(batch, positions, GrowingStore())
    assert hidden.shape == (2, 7, config.dim)
    assert model.token_logits(hidden).shape == (2, 7, config.vocab_size)
    assert model.semantic_logits(hidden[:, -1]).shape == (2, model.num_semantic + 1)
    x = model.fast_input(hidden[:, -1:])
    assert x.shape == (2, 1, config.fast_dim)
    out = model.fast(x, torch.tensor([0]), GrowingStore())
    assert out.shape == (2, 1, config.fast_dim)
    assert model.fast_logits(out).shape == (2, 1, 1024)


@torch.inference_mode()
def test_the_semantic_head_is_the_full_head_without_text(model: DualAR) -> None:
    hidden = prefill(model, some_rows(model, 4, 3))[-1:]
    full, first = model.token_logits(hidden)[0], model.semantic_begin_id
    constrained = model.semantic_logits(hidden)[0]
    torch.testing.assert_close(constrained[:-1], full[first : first + model.num_semantic])
    torch.testing.assert_close(constrained[-1], full[256 + 200 + 4])  # <|im_end|>


def test_text_positions_ignore_codes_and_audio_positions_use_each(model: DualAR) -> None:
    rows = some_rows(model, 2, 1)
    base = model.embed(rows[None])[0]
    for row in range(1, 1 + K):
        changed = rows.clone()
        changed[row] += 1
        embedded = model.embed(changed[None])[0]
        assert torch.equal(embedded[:2], base[:2])
        assert not torch.equal(embedded[2], base[2])


def test_a_prompt_in_parts_is_the_prompt_at_once(model: DualAR) -> None:
    rows = some_rows(model, 6, 4)
    whole = prefill(model, rows)
    store, parts = GrowingStore(), []
    visible = torch.ones(10, 10, dtype=torch.bool).tril()
    with torch.inference_mode():
        for begin, end in ((0, 4), (4, 5), (5, 10)):
            positions = torch.arange(begin, end)[None]
            mask = visible[None, None, begin:end, :end]
            parts.append(model.slow(rows[None, :, begin:end], positions, store, mask)[0])
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)


def test_a_row_in_a_padded_batch_is_the_row_alone(model: DualAR) -> None:
    long, short = some_rows(model, 5, 4), some_rows(model, 3, 2, "other")
    padded = torch.cat((torch.zeros(1 + K, 4, dtype=torch.int64), short), dim=1)
    batch = torch.stack((long, padded))
    positions = torch.stack((torch.arange(9), (torch.arange(9) - 4).clamp(min=0)))
    visible = torch.ones(9, 9, dtype=torch.bool).tril().repeat(2, 1, 1, 1)
    visible[1, :, :, :4] = torch.eye(9, dtype=torch.bool)[:, :4]
    with torch.inference_mode():
        hidden = model.slow(batch, positions, GrowingStore(), visible)
    torch.testing.assert_close(hidden[0], prefill(model, long), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden[1, 4:], prefill(model, short), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_fast_passes_one_by_one_are_the_causal_pass(model: DualAR) -> None:
    hidden = prefill(model, some_rows(model, 4, 3))[-1:]
    codes = codes_like_noise("frame", 1)[:, 0].tolist()
    at_once = fast_logits(model, hidden, codes)
    store, rows = GrowingStore(), []
    model.fast(model.fast_input(hidden)[:, None], torch.tensor([0]), store)
    for position in range(1, K):
        x = model.fast_embeddings(torch.tensor([[codes[position - 1]]]))
        out = model.fast(x, torch.tensor([[position]]), store)
        rows.append(model.fast_logits(out)[0, 0])
    torch.testing.assert_close(torch.stack(rows), at_once, rtol=1e-5, atol=1e-5)


def test_the_fast_input_is_normalized_where_the_config_says_so(model: DualAR) -> None:
    values = {name: getattr(model.config, name) for name in DualARConfig.__dataclass_fields__}
    normed = DualAR(DualARConfig(**{**values, "norm_fastlayer_input": True}))
    normed.load_state_dict(model.state_dict())
    hidden = torch.linspace(-2, 2, model.config.dim)[None]
    torch.testing.assert_close(normed.fast_input(hidden), model.fast_input(model.norm(hidden)))
    assert not torch.equal(normed.fast_input(hidden), model.fast_input(hidden))


def test_rope_tables_stay_exact_when_the_weights_are_halved(tiny_directory: Path) -> None:
    wide = load_dual_ar(tiny_directory, "cpu", torch.float32)
    half = load_dual_ar(tiny_directory, "cpu", torch.float16)
    assert half.norm.weight.dtype == torch.float16
    assert half.rope.dtype == torch.float32
    assert torch.equal(half.rope, wide.rope)
    assert torch.equal(wide.rope, wide.rope.bfloat16().float())
    assert wide.rope.shape == (2304, 16, 2)
    assert wide.fast_rope.shape == (K, 8, 2)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_stays_near_full_precision(
    model: DualAR, request: pytest.FixtureRequest, dtype: torch.dtype, bound: float
) -> None:
    rows = some_rows(model, 6, 6)
    reference = prefill(model, rows)
    directory = "tiny_directory" if model.output is not None else "turned_directory"
    half = load_dual_ar(request.getfixturevalue(directory), "cpu", dtype)
    hidden = prefill(half, rows)
    assert hidden.dtype == dtype
    assert float((hidden.float() - reference).norm() / reference.norm()) < bound


def test_the_pocket_voice_speaks_a_sentence_of_plausible_length() -> None:
    model = load_dual_ar(POCKET, "cpu", torch.float32)
    tokenizer, num_codebooks = Tokenizer.from_directory(POCKET), model.config.num_codebooks
    rows = build_prompt(tokenizer, "The quick brown fox.", [], num_codebooks)
    codes = speak(model, rows, 150)
    assert 15 <= codes.shape[1] < 150  # 0.7 s at least, and it ends by itself
    assert len(codes[0].unique()) > 10


@pytest.mark.gpu
@torch.inference_mode()
def test_the_gpu_gives_the_hidden_states_and_logits_of_the_cpu(tiny_directory: Path) -> None:
    on_cpu = load_dual_ar(tiny_directory, "cpu", torch.float32)
    on_gpu = load_dual_ar(tiny_directory, "cuda", torch.float32)
    rows = some_rows(on_cpu, 6, 6)
    expected = prefill(on_cpu, rows)
    positions = torch.arange(12, device="cuda")[None]
    hidden = on_gpu.slow(rows[None].cuda(), positions, GrowingStore())[0]
    torch.testing.assert_close(hidden.cpu(), expected, rtol=1e-4, atol=1e-4)
    logits = on_gpu.semantic_logits(hidden[-1:]).cpu()
    torch.testing.assert_close(logits, on_cpu.semantic_logits(expected[-1:]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("semantic_begin_id", "num_semantic", "im_end_id", "named"),
    [
        (471, CODEBOOK_SIZE + 1, 5, "codebook_size"),
        (1000, CODEBOOK_SIZE, 5, "leave the vocabulary"),
        (-1, 10, 5, "leave the vocabulary"),
        (470, 0, 5, "leave the vocabulary"),
        (471, 10, 99_999, "im_end"),
    ],
)
def test_token_ids_that_do_not_fit_are_refused(
    model: DualAR, semantic_begin_id: int, num_semantic: int, im_end_id: int, named: str
) -> None:
    bare = DualAR(model.config)
    with pytest.raises(ValueError, match=named):
        bare.bind_tokens(semantic_begin_id, num_semantic, im_end_id)


def test_the_semantic_head_waits_for_its_token_ids(model: DualAR) -> None:
    with pytest.raises(RuntimeError, match="bind_tokens"):
        DualAR(model.config).semantic_logits(torch.zeros(1, model.config.dim))


def test_a_residual_size_beyond_the_codebook_is_refused(model: DualAR) -> None:
    assert DualAR(model.config, residual_size=100).residual_size == 100
    for size in (0, CODEBOOK_SIZE + 1):
        with pytest.raises(ValueError, match="residual_size"):
            DualAR(model.config, residual_size=size)


@torch.inference_mode()
@pytest.mark.parametrize("directory", ["tiny_directory", "turned_directory"])
def test_a_lean_network_scores_speech_alike_and_nothing_else(
    directory: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(directory)
    full = load_dual_ar(path, "cpu", torch.float32)
    lean = load_dual_ar(
        path, "cpu", torch.float32, is_lean=True, host_tables=("embeddings.weight",)
    )
    hidden = torch.randn(2, full.config.dim)
    assert torch.equal(lean.semantic_logits(hidden), full.semantic_logits(hidden))
    begin, count = full.semantic_begin_id, full.num_semantic
    end = Tokenizer.from_directory(path).im_end_id
    lean.bind_tokens(begin, count, end)
    assert torch.equal(lean.semantic_logits(hidden), full.semantic_logits(hidden))
    if full.output is None:  # tied to the embeddings, which are needed
        return
    assert sum(p.numel() for p in lean.parameters()) < sum(p.numel() for p in full.parameters())
    with pytest.raises(RuntimeError, match="cut"):
        lean.token_logits(hidden)
    with pytest.raises(ValueError, match="cut"):
        lean.bind_tokens(begin, count - 1, end)
