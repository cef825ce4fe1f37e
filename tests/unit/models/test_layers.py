from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.models.layers import HeadNorm, RMSNorm, apply_rope, grouped_attention, rope_table


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return scores.masked_fill(~visible, float("-inf")).softmax(-1) @ v


def test_rope_tables_hold_bfloat16_values_on_the_unit_circle() -> None:
    table = rope_table(512, 64, 1e6, torch.device("cpu"))
    assert table.shape == (512, 32, 2)
    assert table.dtype == torch.bfloat16
    angles = torch.arange(512.0)[:, None] * 1e6 ** (-torch.arange(0, 64, 2) / 64)
    exact = torch.stack((angles.cos(), angles.sin()), dim=-1)
    assert (table.float() - exact).abs().max() < 2.0**-8
    assert not torch.equal(table.float(), exact)  # rounded, as the model was trained


def test_rope_turns_neighboring_pairs_as_complex_numbers() -> None:
    x = noise(2, 5, 3, 8)
    angles = rope_table(5, 8, 100.0, torch.device("cpu")).float()
    rotated = apply_rope(x, angles)
    as_complex = torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous())
    expected = torch.view_as_real(as_complex * torch.view_as_complex(angles)[:, None]).flatten(-2)
    torch.testing.assert_close(rotated, expected)
    assert apply_rope(x.bfloat16(), angles).dtype == torch.bfloat16


def test_rope_takes_positions_per_row() -> None:
    x = noise(2, 1, 3, 8)
    table = rope_table(10, 8, 100.0, torch.device("cpu")).float()
    rotated = apply_rope(x, table[torch.tensor([[2], [7]])])
    assert torch.equal(rotated[:1], apply_rope(x[:1], table[2:3]))
    assert torch.equal(rotated[1:], apply_rope(x[1:], table[7:8]))


@pytest.mark.parametrize("num_groups", [1, 2, 6])
def test_grouped_attention_is_causal_without_a_mask(num_groups: int) -> None:
    q, k, v = noise(2, 6, 5, 8), noise(2, num_groups, 5, 8, seed=1), noise(2, num_groups, 5, 8)
    visible = torch.ones(5, 5, dtype=torch.bool).tril()
    expected = naive_attention(q, k, v, visible)
    torch.testing.assert_close(grouped_attention(q, k, v, None), expected)


@pytest.mark.parametrize("num_groups", [1, 2, 6])
def test_one_query_sees_all_keys_without_a_mask(num_groups: int) -> None:
    q, k, v = noise(2, 6, 1, 8), noise(2, num_groups, 5, 8, seed=1), noise(2, num_groups, 5, 8)
    expected = naive_attention(q, k, v, torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(grouped_attention(q, k, v, None), expected)


@pytest.mark.parametrize("num_groups", [1, 2, 6])
@pytest.mark.parametrize("num_queries", [1, 3])
@pytest.mark.parametrize("is_additive", [False, True])
def test_masks_are_kept_per_row_and_query(
    num_groups: int, num_queries: int, is_additive: bool
) -> None:
    q = noise(2, 6, num_queries, 8)
    k, v = noise(2, num_groups, 7, 8, seed=1), noise(2, num_groups, 7, 8, seed=2)
    visible = noise(2, 1, num_queries, 7, seed=3) > 0
    visible[..., 0] = True
    additive = torch.zeros(visible.shape).masked_fill(~visible, float("-inf"))
    out = grouped_attention(q, k, v, additive if is_additive else visible)
    torch.testing.assert_close(out, naive_attention(q, k, v, visible))


def test_several_queries_over_a_filled_store_need_a_mask() -> None:
    q, k = noise(1, 2, 3, 8), noise(1, 2, 5, 8)
    with pytest.raises(ValueError, match="3 queries over 5 keys"):
        grouped_attention(q, k, k, None)


def test_rms_norm_rounds_before_it_scales() -> None:
    norm = RMSNorm(16, 1e-6).bfloat16()
    norm.weight.data = noise(16, seed=4).bfloat16()
    x = noise(3, 16).bfloat16()
    wide = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)
    assert torch.equal(norm(x), wide.bfloat16() * norm.weight)


def test_head_norm_rounds_once_at_the_end() -> None:
    norm = HeadNorm(16, 1e-6).bfloat16()
    norm.weight.data = noise(16, seed=4).bfloat16()
    x = noise(3, 16).bfloat16()
    wide = F.rms_norm(x.float(), (16,), norm.weight.float(), 1e-6)
    assert torch.equal(norm(x), wide.bfloat16())
