"""The codec's sizes: derived values, and configurations that cannot be."""

from __future__ import annotations

import pytest

from backend.core.errors import CheckpointError
from backend.models.codec.config import S1_MINI, CodecConfig
from tests.parity.codec_cases import TINY


def test_s1_mini_has_the_published_rates():
    assert S1_MINI.num_codebooks == 10
    assert S1_MINI.codebook_sizes == (4096, *[1024] * 9)
    assert S1_MINI.hop_length == 512
    assert S1_MINI.frame_length == 2048
    assert S1_MINI.frame_rate == pytest.approx(21.533, abs=1e-3)


def test_s1_mini_has_one_encoder_transformer_at_the_end():
    assert [S1_MINI.encoder_transformer(idx) for idx in range(3)] == [None, None, None]
    transformer = S1_MINI.encoder_transformer(3)
    assert transformer is not None
    assert (transformer.dim, transformer.n_head, transformer.head_dim) == (1024, 16, 64)
    assert (transformer.intermediate_size, transformer.window_size) == (3072, 512)


def test_the_dictionary_form_reads_back():
    assert CodecConfig.from_dict(S1_MINI.to_dict()) == S1_MINI


def test_training_keys_are_skipped_and_absent_encoder_transformers_mean_none():
    values = {**TINY, "quantizer_dropout": 0.5, "block_size": 2048}
    del values["encoder_transformer_layers"]
    assert CodecConfig.from_dict(values).encoder_transformer_layers == (0, 0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dim": 0}, "dim"),
        ({"n_codebooks": "nine"}, "n_codebooks"),
        ({"codebook_size": 16.0}, "codebook_size"),
        ({"n_head": True}, "n_head"),
        ({"encoder_rates": []}, "encoder_rates"),
        ({"encoder_rates": 8}, "encoder_rates"),
        ({"encoder_rates": [2, 4.0]}, "encoder_rates"),
        ({"decoder_rates": [2, 2]}, "decoder_rates"),
        ({"decoder_dim": 34}, "decoder_dim"),
        ({"encoder_transformer_layers": [1]}, "encoder_transformer_layers"),
        ({"encoder_transformer_layers": [1, 0]}, "encoder_head_dim"),
        ({"head_dim": 15}, "head_dim"),
        ({"rope_base": float("nan")}, "rope_base"),
        ({"norm_eps": 0}, "norm_eps"),
        ({"norm_eps": "small"}, "norm_eps"),
        ({"sampel_rate": 8000}, "sampel_rate"),
    ],
)
def test_an_impossible_value_is_refused_by_name(changes, named):
    with pytest.raises(CheckpointError, match=named):
        CodecConfig.from_dict({**TINY, **changes})


@pytest.mark.parametrize("key", [key for key in TINY if key != "encoder_transformer_layers"])
def test_a_missing_value_is_named(key):
    values = {name: value for name, value in TINY.items() if name != key}
    with pytest.raises(CheckpointError, match=key):
        CodecConfig.from_dict(values)
