from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from backend.core.errors import CheckpointError
from backend.models.tokenizer import MAX_PIECE_CHARS, MAX_RUN_CHARS, Tokenizer
from tests.parity.tiny_checkpoint import CODEBOOK_SIZE, NAMED_SPECIALS, learned_ranks
from tests.unit.models.conftest import POCKET

NUM_RANKS = 456


@pytest.fixture(scope="module")
def tiny(tiny_directory: Path) -> Tokenizer:
    return Tokenizer.from_directory(tiny_directory)


@pytest.fixture(scope="module")
def turned(turned_directory: Path) -> Tokenizer:
    return Tokenizer.from_directory(turned_directory)


@pytest.fixture(scope="module")
def byte_tokenizer() -> Tokenizer:
    ranks = {bytes([value]): value for value in range(256)}
    return Tokenizer(ranks, [*NAMED_SPECIALS, "<|semantic:0|>", "<|semantic:1|>"])


def write_files(directory: Path, ranks: str, special_tokens: object) -> Path:
    (directory / "tokenizer.tiktoken").write_text(ranks, encoding="utf-8")
    content = special_tokens if isinstance(special_tokens, str) else json.dumps(special_tokens)
    (directory / "special_tokens.json").write_text(content, encoding="utf-8")
    return directory


def byte_lines() -> str:
    lines = (f"{base64.b64encode(bytes([value])).decode()} {value}" for value in range(256))
    return "\n".join(lines)


SPECIALS = dict.fromkeys((*NAMED_SPECIALS, "<|semantic:0|>"), 0)


def test_control_ids_follow_the_order_of_the_file(tiny: Tokenizer) -> None:
    assert tiny.im_end_id == NUM_RANKS + 4
    assert tiny.interleave_id == NUM_RANKS + 11
    assert tiny.semantic_begin_id == NUM_RANKS + 15
    assert tiny.num_semantic == CODEBOOK_SIZE
    assert tiny.semantic_end_id == NUM_RANKS + 15 + CODEBOOK_SIZE - 1
    assert tiny.vocab_size == tiny.semantic_end_id + 1


def test_the_numbers_in_the_special_token_file_are_not_used(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(write_files(tmp_path, byte_lines(), SPECIALS))
    assert tokenizer.im_end_id == 256 + 4


def test_merges_are_applied_within_pieces_only(tiny: Tokenizer) -> None:
    ranks = learned_ranks()
    assert tiny.encode(" the the") == [ranks[b" the"], ranks[b" the"]]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a12", ["a", "1", "2"]),
        ("x.y", ["x", ".", "y"]),
        ("don't", ["don", "'t"]),
        (" (ha) Ha", [" (", "ha", ")", " Ha"]),
        ("  x", ["  ", "x"]),
        ("a \n\nb", ["a", " \n\n", "b"]),
        ("a  ?!b", ["a", "  ?!b"]),  # the odd alternative: white space, "?!", one character
    ],
)
def test_text_is_split_as_the_checkpoint_was_trained(text: str, pieces: list[str]) -> None:
    # Every multi-byte rank is a whole piece, so a wrong split cannot give these ids.
    ranks = {bytes([value]): value for value in range(256)}
    for piece in pieces:
        encoded = piece.encode()
        for end in range(2, len(encoded) + 1):
            ranks.setdefault(encoded[:end], len(ranks))
    tokenizer = Tokenizer(ranks, [*NAMED_SPECIALS, "<|semantic:0|>"])
    assert tokenizer.encode(text) == [ranks[piece.encode()] for piece in pieces]


def test_control_tokens_typed_by_users_are_ordinary_text(tiny: Tokenizer) -> None:
    for text in ("<|im_end|>", "<|semantic:5|>", "<|interleave|>", "<|speaker:0|>"):
        ids = tiny.encode(text)
        assert len(ids) > 1
        assert max(ids) < NUM_RANKS


def test_control_tokens_in_templates_are_single_ids(tiny: Tokenizer) -> None:
    ids = tiny.encode_template("<|interleave|>hi<|im_end|>")
    assert ids == [tiny.interleave_id, *tiny.encode("hi"), tiny.im_end_id]


def test_the_speaker_tag_is_text_or_control_as_the_checkpoint_says(
    tiny: Tokenizer, turned: Tokenizer
) -> None:
    assert tiny.encode_template("<|speaker:0|>") == tiny.encode("<|speaker:0|>")
    assert turned.encode_template("<|speaker:0|>") == [turned.vocab_size - 1]
    assert max(turned.encode("<|speaker:0|>")) < NUM_RANKS


def test_the_pocket_tokenizer_spells_bytes() -> None:
    tokenizer = Tokenizer.from_directory(POCKET)
    assert tokenizer.encode("né") == [110, 195, 169]
    assert len(tokenizer.encode_template("<|speaker:0|>")) == 1


@pytest.mark.parametrize(
    "text",
    ["a" * 10**6, " " * 10**6, "!" * 10**6, "_!" * 500_000, "\n" * 10**6, " " * 999_999 + "x"],
    ids=["letters", "spaces", "symbols", "underscores", "newlines", "spaces before a word"],
)
@pytest.mark.timeout(20)
def test_a_megabyte_of_one_run_is_tokenized_at_once(byte_tokenizer: Tokenizer, text: str) -> None:
    assert byte_tokenizer.encode(text) == list(text.encode())


def test_a_text_that_comes_again_is_not_tokenized_again(
    tiny: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tiny.encode("the voice says this")
    first_copy = list(first)
    first.append(-1)  # what a caller does with its list is its own affair
    monkeypatch.setattr("backend.models.tokenizer._pieces", lambda text: iter(()))
    assert tiny.encode("the voice says this") == first_copy
    assert tiny.encode("another text") == []
    assert tiny.encode("the voice says this. " * 200) == []  # long ones are not kept


def test_cutting_long_texts_keeps_the_tokens_of_ordinary_ones(tiny: Tokenizer) -> None:
    sentence = "The quick brown fox, 12 times (laughing)!\n"
    text = sentence * 200
    assert len(text) > MAX_RUN_CHARS
    assert tiny.encode(text) == tiny.encode(sentence) * 200


def test_texts_beyond_the_official_cut_keep_every_byte(byte_tokenizer: Tokenizer) -> None:
    text = "ab " * (MAX_PIECE_CHARS // 3 + 100)
    assert bytes(byte_tokenizer.encode(text)).decode() == text


def test_unpaired_surrogates_do_not_fail(byte_tokenizer: Tokenizer) -> None:
    assert bytes(byte_tokenizer.encode("a\ud800b")).decode() == "a\ufffdb"


@pytest.mark.parametrize(
    ("ranks", "special_tokens", "named"),
    [
        ("!!! 0", SPECIALS, "line 1"),
        ("YQ==", SPECIALS, "line 1"),
        ("YQ== 0", SPECIALS, "byte 0"),
        (byte_lines() + "\nYWI= 300", SPECIALS, "0..256"),
        (byte_lines(), "[1", "not a JSON file"),
        (byte_lines(), ["<|im_end|>"], "JSON object"),
        (byte_lines(), {"<|semantic:0|>": 0, "<|interleave|>": 1}, "<|im_end|>"),
        (byte_lines(), dict.fromkeys(NAMED_SPECIALS, 0), "<|semantic:0|>"),
        (byte_lines(), {**SPECIALS, "<|x|>": 0, "<|semantic:1|>": 0}, "stand together"),
    ],
)
def test_a_damaged_tokenizer_is_refused_with_its_place(
    tmp_path: Path, ranks: str, special_tokens: object, named: str
) -> None:
    directory = write_files(tmp_path, ranks, special_tokens)
    with pytest.raises(CheckpointError, match=named.replace("|", r"\|").replace(".", r"\.")):
        Tokenizer.from_directory(directory)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.tiktoken: cannot be read"):
        Tokenizer.from_directory(tmp_path)


def test_a_table_that_changed_on_disk_is_read_anew(tmp_path: Path) -> None:
    write_files(tmp_path, byte_lines(), SPECIALS)
    before = Tokenizer.from_directory(tmp_path)
    write_files(tmp_path, byte_lines() + "\nYWI= 256", SPECIALS)
    after = Tokenizer.from_directory(tmp_path)
    assert (before.encode("ab"), after.encode("ab")) == ([97, 98], [256])
