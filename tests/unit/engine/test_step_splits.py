"""How the slow attention is cut up."""

import pytest

from backend.engine.step_splits import attention_splits, keys_at_once


@pytest.mark.parametrize(
    ("units", "max_length", "wanted"),
    [(8, 256, (64, 4)), (8, 8192, (256, 32)), (64, 512, (128, 4)), (256, 512, (512, 1)),
     (1024, 256, (256, 1)), (256, 1024, (512, 2)), (1024, 8192, (4096, 2)), (8, 40, (64, 1))],
)  # fmt: skip
def test_splits_cover_all_positions_and_grow_with_the_batch(
    units: int, max_length: int, wanted: tuple[int, int]
):
    length, splits = attention_splits(units, max_length)
    assert (length, splits) == wanted
    assert length * splits >= max_length


@pytest.mark.parametrize(("units", "wanted"), [(8, 64), (256, 64), (512, 32), (1024, 32)])
def test_many_programs_read_fewer_positions_at_once(units: int, wanted: int):
    keys = keys_at_once(units)
    assert keys == wanted
    length, _ = attention_splits(units, 8192)
    assert length % keys == 0
