from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backend.core.errors import CheckpointError
from backend.models.adapters import lora_alpha, merge_lora, official_names


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_training_prefixes_and_audio_inputs_go() -> None:
    named = official_names(
        {
            "model.norm.weight": torch.ones(2),
            "model.audio_projector.weight": torch.ones(2),
            "model.layers.0.attention.wo.weight": torch.ones(2),
        }
    )
    assert list(named) == ["norm.weight", "layers.0.attention.wo.weight"]


def test_names_without_the_prefix_stay() -> None:
    assert list(official_names({"norm.weight": torch.ones(2), "x": torch.ones(1)})) == [
        "norm.weight",
        "x",
    ]
    assert official_names({}) == {}


def test_separate_query_key_value_are_joined_in_this_order() -> None:
    q, k, v = noise(4, 3), noise(2, 3, seed=1), noise(2, 3, seed=2)
    stem = "fast_layers.1.attention.w"
    named = official_names({f"{stem}v.weight": v, f"{stem}q.weight": q, f"{stem}k.weight": k})
    assert list(named) == [f"{stem}qkv.weight"]
    assert torch.equal(named[f"{stem}qkv.weight"], torch.cat((q, k, v)))


def test_a_lone_query_weight_is_refused() -> None:
    with pytest.raises(CheckpointError, match="without its wk and wv"):
        official_names({"layers.0.attention.wq.weight": noise(2, 2)})


def lora_tensors() -> dict[str, Tensor]:
    return {
        "output.weight": noise(6, 4),
        "output.lora_A": noise(2, 4, seed=1),
        "output.lora_B": noise(6, 2, seed=2),
        "fast_embeddings.weight": noise(6, 4, seed=3).bfloat16(),
        "fast_embeddings.lora_A": noise(2, 6, seed=4),
        "fast_embeddings.lora_B": noise(4, 2, seed=5),
        "norm.weight": noise(4, seed=6),
    }


def test_updates_are_merged_with_their_scale() -> None:
    tensors = lora_tensors()
    merged = merge_lora(tensors, 16)
    assert sorted(merged) == ["fast_embeddings.weight", "norm.weight", "output.weight"]
    linear = tensors["output.weight"] + 8 * tensors["output.lora_B"] @ tensors["output.lora_A"]
    torch.testing.assert_close(merged["output.weight"], linear)
    update = (tensors["fast_embeddings.lora_B"] @ tensors["fast_embeddings.lora_A"]).T
    table = (tensors["fast_embeddings.weight"].float() + 8 * update).bfloat16()
    assert torch.equal(merged["fast_embeddings.weight"], table)
    assert merged["norm.weight"] is tensors["norm.weight"]


def test_without_updates_no_scale_is_needed() -> None:
    tensors = {"norm.weight": torch.ones(2)}
    assert merge_lora(tensors, None) == tensors


def test_updates_of_unknown_scale_are_refused_with_the_fix() -> None:
    with pytest.raises(CheckpointError, match=r"convert_checkpoint\.py --lora-alpha"):
        merge_lora(lora_tensors(), None)


@pytest.mark.parametrize(
    ("absent", "named"),
    [
        ("output.weight", "output.weight is missing"),
        ("output.lora_B", "output.lora_B is missing"),
        ("output.lora_A", "output.lora_B stands without its lora_A"),
    ],
)
def test_half_an_update_is_refused(absent: str, named: str) -> None:
    tensors = lora_tensors()
    del tensors[absent]
    with pytest.raises(CheckpointError, match=named):
        merge_lora(tensors, 16)


def test_an_update_of_another_model_is_refused() -> None:
    tensors = {**lora_tensors(), "output.lora_A": noise(2, 5)}
    with pytest.raises(CheckpointError, match=r"output: the LoRA update has the shape \(6, 5\)"):
        merge_lora(tensors, 16)


def test_the_scale_is_found_where_it_is_recorded() -> None:
    assert lora_alpha({}) is None
    assert lora_alpha({"lora_alpha": "16"}) == 16.0
    assert lora_alpha({"lora_config": {"r": 8, "lora_alpha": 32}}) == 32.0
    assert lora_alpha({"hyper_parameters": {"lora_alpha": 4}}) == 4.0
    with pytest.raises(CheckpointError, match="lora_alpha"):
        lora_alpha({"lora_alpha": "many"})
