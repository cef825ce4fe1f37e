"""Known ids of the official tokenizer. Collected only where its files are (see conftest.py)."""

from __future__ import annotations

import pytest

from backend.models.tokenizer import Tokenizer
from tests.unit.models.conftest import OFFICIAL_DIRECTORY


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_directory(OFFICIAL_DIRECTORY)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world.", "9707 1879 13"),
        ("你好，世界。", "108386 3837 99489 1773"),  # noqa: RUF001
        (
            "It costs $5.50, ok? 100%!",
            "2132 7049 400 20 13 20 15 11 5394 30 220 16 15 15 4 0",
        ),
        (
            "Elmo's 12345 test!!!\n\r\n  multiple   spaces\ttab",
            "6582 6355 594 220 16 17 18 19 20 1273 0 0 0 198 319 256 35673 262 44285 58149",
        ),
    ],
)
def test_text_becomes_the_known_ids(tokenizer: Tokenizer, text: str, ids: str) -> None:
    assert tokenizer.encode(text) == [int(part) for part in ids.split()]


def test_a_template_mixes_control_tokens_and_text(tokenizer: Tokenizer) -> None:
    speaker = [27, 91, 64476, 25, 15, 91, 29]
    ids = tokenizer.encode_template("<|interleave|><|speaker:0|>hi there<|im_end|><|speaker:0|>")
    assert ids == [151654, *speaker, 6023, 1052, 151647, *speaker]


def test_control_ids_are_the_known_ones(tokenizer: Tokenizer) -> None:
    assert tokenizer.interleave_id == 151654
    assert tokenizer.im_end_id == 151647
    assert (tokenizer.semantic_begin_id, tokenizer.semantic_end_id) == (151658, 155753)
    assert tokenizer.num_semantic == 4096
    assert tokenizer.vocab_size == 155754
