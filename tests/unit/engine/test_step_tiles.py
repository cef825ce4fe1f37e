"""How the products of a decode step are cut up."""

import pytest

from backend.engine.step_tiles import few_rows_shape, tile_shape

SHARED_BYTES = 99 << 10
"""What a block may have on the smallest card that the kernels are for."""


@pytest.mark.parametrize(
    ("features", "width", "is_sum"),
    [(4096, 1024, False), (1024, 2048, True), (1024, 3072, True), (256, 768, True),
     (1024, 1024, True), (64, 48, True)],
)  # fmt: skip
def test_a_sum_is_cut_up_whole_and_in_one_order_for_all_rows(
    features: int, width: int, is_sum: bool
):
    shapes = [tile_shape(rows, features, width, is_sum=is_sum) for rows in (2, 16, 64, 128)]
    assert len({(shape.block_k, shape.split_k) for shape in shapes}) == 1
    for shape in shapes:
        assert width % (shape.split_k * shape.block_k) == 0
        assert (shape.split_k > 1) <= is_sum


def test_a_long_shared_sum_has_more_loads_in_flight():
    loads = [tile_shape(64, 1024, width, is_sum=True).stages for width in (1024, 2048, 3072)]
    assert loads == [4, 4, 5]
    assert tile_shape(64, 1024, 3072, is_sum=False).stages == 4
    assert tile_shape(64, 1024, 3072, is_sum=True, is_nf4=True).stages == 4


@pytest.mark.parametrize(("width", "is_sum", "factors"), [(3072, True, 1), (1024, False, 2)])
def test_a_program_has_room_on_every_card(width: int, is_sum: bool, factors: int):
    shape = tile_shape(128, 1024, width, is_sum=is_sum)
    step = (shape.block_m + factors * shape.block_n) * shape.block_k * 2
    assert step * (shape.stages - 1) <= SHARED_BYTES  # one of them is in the registers there


def test_few_rows_keep_their_weights_in_registers():
    assert few_rows_shape(1024, is_int8=False) == (4, 1)
    assert few_rows_shape(3072, is_int8=True) == (4, 16)


@pytest.mark.parametrize(
    ("rows", "is_nf4", "wanted"), [(4, False, 64), (16, True, 16), (32, True, 64)]
)
def test_hopper_takes_its_wide_instructions(rows: int, is_nf4: bool, wanted: int):
    shape = tile_shape(rows, 1024, 1024, is_sum=False, is_nf4=is_nf4, is_hopper=True)
    assert shape.block_m == wanted
    assert tile_shape(rows, 1024, 1024, is_sum=False).block_m == max(16, rows)
