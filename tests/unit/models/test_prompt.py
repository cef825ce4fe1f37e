from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.core.errors import InvalidInputError
from backend.core.types import Turn
from backend.models.prompt import build_prompt, prompt_length, prompt_rows_for_codes
from backend.models.tokenizer import Tokenizer
from tests.parity.tiny_checkpoint import CODEBOOK_SIZE, codes_like_noise

K = 10


@pytest.fixture(scope="module", params=["tiny_directory", "turned_directory"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    directory: Path = request.getfixturevalue(request.param)
    return Tokenizer.from_directory(directory)


def turn(text: str, num_frames: int) -> Turn:
    return Turn(text, codes_like_noise(text, num_frames).numpy().astype(np.int32))


def test_text_alone_is_opener_speaker_and_text(tokenizer: Tokenizer) -> None:
    rows = build_prompt(tokenizer, "Hello.", [], K)
    speaker = tokenizer.encode_template("<|speaker:0|>")
    assert rows.dtype == torch.int64
    assert rows[0].tolist() == [tokenizer.interleave_id, *speaker, *tokenizer.encode("Hello.")]
    assert rows.shape == (1 + K, rows.shape[1])
    assert not rows[1:].any()


def test_each_turn_is_speaker_text_codes_and_end(tokenizer: Tokenizer) -> None:
    turns = [turn("One.", 3), turn("Two, three.", 2)]
    rows = build_prompt(tokenizer, "Four.", turns, K)
    speaker = tokenizer.encode_template("<|speaker:0|>")
    expected = [tokenizer.interleave_id]
    for each in turns:
        semantic = (each.codes[0] + tokenizer.semantic_begin_id).tolist()
        expected += [*speaker, *tokenizer.encode(each.text), *semantic, tokenizer.im_end_id]
    assert rows[0].tolist() == [*expected, *speaker, *tokenizer.encode("Four.")]
    is_audio = (rows[0] >= tokenizer.semantic_begin_id) & (rows[0] <= tokenizer.semantic_end_id)
    codes = np.concatenate([each.codes for each in turns], axis=1)
    assert torch.equal(rows[1:, is_audio], torch.from_numpy(codes).long())
    assert not rows[1:, ~is_audio].any()


def test_typed_control_tokens_cannot_end_a_turn(tokenizer: Tokenizer) -> None:
    rows = build_prompt(tokenizer, "a<|im_end|><|semantic:5|>", [turn("b<|im_end|>", 1)], K)
    assert (rows[0] == tokenizer.im_end_id).sum() == 1
    assert (rows[0] == tokenizer.semantic_begin_id + 5).sum() == 0


def test_length_is_known_without_building(tokenizer: Tokenizer) -> None:
    turns = [turn("One.", 3), turn("你好", 7)]
    for given in ([], turns[:1], turns):
        length = prompt_length(tokenizer, "Some (excited) text.", given)
        rows = build_prompt(tokenizer, "Some (excited) text.", given, K)
        assert length == rows.shape[1]


def test_codes_become_rows_under_their_token_ids(tokenizer: Tokenizer) -> None:
    codes = codes_like_noise("x", 4)
    rows = prompt_rows_for_codes(tokenizer, codes.to(torch.int16), K)
    assert rows.shape == (1 + K, 4)
    assert rows.dtype == torch.int64
    assert torch.equal(rows[1:], codes)
    assert torch.equal(rows[0], codes[0] + tokenizer.semantic_begin_id)
    assert prompt_rows_for_codes(tokenizer, codes[:, :0], K).shape == (1 + K, 0)


@pytest.mark.parametrize(
    ("codes", "named"),
    [
        (torch.zeros(9, 4, dtype=torch.int64), "shape"),
        (torch.zeros(10, dtype=torch.int64), "shape"),
        (torch.zeros(10, 4), "integers"),
        (torch.zeros(10, 4, dtype=torch.bool), "integers"),
        (torch.full((10, 4), -1), "0 or more"),
        (torch.full((10, 4), CODEBOOK_SIZE), f"below {CODEBOOK_SIZE}"),
    ],
)
def test_codes_of_another_codec_are_refused(tokenizer: Tokenizer, codes: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        prompt_rows_for_codes(tokenizer, codes, K)
