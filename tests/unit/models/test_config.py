from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.core.errors import CheckpointError
from backend.models.config import DualARConfig
from tests.parity.full_checkpoint import S1_MINI
from tests.parity.tiny_checkpoint import tiny_config
from tests.unit.models.conftest import POCKET


def test_the_official_file_is_read_and_unknown_keys_are_ignored() -> None:
    config = DualARConfig.from_dict({**S1_MINI, "some_new_switch": 3})
    for key, value in S1_MINI.items():
        if hasattr(config, key):
            assert getattr(config, key) == value
    assert config.norm_fastlayer_input is False


def test_missing_fast_sizes_are_the_slow_ones() -> None:
    slow_only = {key: value for key, value in S1_MINI.items() if not key.startswith("fast_")}
    config = DualARConfig.from_dict(slow_only)
    fast, slow = config.fast_block, config.slow_block
    assert fast.n_layer == 4
    assert (fast.dim, fast.n_head, fast.n_local_heads) == (slow.dim, slow.n_head, 8)
    assert (fast.head_dim, fast.intermediate_size) == (128, 3072)
    assert fast.qk_norm is slow.qk_norm is True


def test_null_means_missing() -> None:
    config = DualARConfig.from_dict({**S1_MINI, "fast_dim": None, "head_dim": None})
    assert config.fast_dim == 1024
    assert config.head_dim == 1024 // 16


def test_minus_one_local_heads_means_one_per_query_head() -> None:
    values = {**S1_MINI, "n_local_heads": -1}
    del values["fast_n_local_heads"]
    config = DualARConfig.from_dict(values)
    assert config.n_local_heads == config.fast_n_local_heads == 16


def test_the_pocket_voice_is_read_by_the_same_rules() -> None:
    path = POCKET / "config.json"
    config = DualARConfig.from_file(path)
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert (config.vocab_size, config.dim) == (stored["vocab_size"], stored["dim"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dim", 0),
        ("dim", "64"),
        ("n_layer", 2.5),
        ("n_head", True),
        ("norm_eps", float("nan")),
        ("rope_base", -1),
        ("max_seq_len", float("inf")),
        ("attention_qk_norm", 1),
        ("tie_word_embeddings", "no"),
        ("n_local_heads", 3),
        ("fast_n_local_heads", 3),
        ("head_dim", 31),
        ("fast_head_dim", 7),
        ("model_type", "naive"),
        ("n_local_heads", -2),
    ],
)
def test_a_bad_value_is_refused_with_its_key(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=key):
        DualARConfig.from_dict({**tiny_config("s1"), key: value})


@pytest.mark.parametrize("key", ["dim", "n_layer", "vocab_size", "codebook_size"])
def test_a_missing_size_is_refused_with_its_key(key: str) -> None:
    values = tiny_config("s1")
    del values[key]
    with pytest.raises(CheckpointError, match=key):
        DualARConfig.from_dict(values)


@pytest.mark.parametrize(("content", "named"), [("[1]", "object"), ("{", "not a JSON file")])
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{named}"):
        DualARConfig.from_file(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        DualARConfig.from_file(tmp_path / "config.json")
