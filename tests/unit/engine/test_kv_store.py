"""Keys and values outside the network."""

import pytest
import torch

from backend.engine.kv_store import KVStore


def make_store(max_positions: int = 4) -> KVStore:
    return KVStore(2, 2, 3, max_positions, 5, torch.device("cpu"), torch.float32)


def test_extend_returns_all_positions_so_far_per_layer():
    view = make_store().view(1)
    first = torch.randn(1, 3, 2, 5)
    for layer_idx in range(2):
        view.extend(layer_idx, first + layer_idx, -first)
    view.advance(2)
    second = torch.randn(1, 3, 1, 5)
    keys, values = view.extend(1, second, -second)
    assert torch.equal(keys, torch.cat([first + 1, second], dim=2))
    assert torch.equal(values, -torch.cat([first, second], dim=2))


def test_a_position_beyond_the_room_is_refused():
    view = make_store(max_positions=2).view(0)
    with pytest.raises(IndexError, match="position 2 is beyond the store's 2"):
        view.extend(0, torch.zeros(1, 3, 3, 5), torch.zeros(1, 3, 3, 5))


def test_slots_do_not_touch_each_other():
    store = make_store()
    store.view(0).extend(0, torch.ones(1, 3, 4, 5), torch.ones(1, 3, 4, 5))
    assert store.slot_data(0)[:, 0].all()
    assert not store.slot_data(1).any()
    assert store.data.sum() == store.slot_data(0).sum()


def test_both_sides_know_a_length_that_is_set():
    store = make_store()
    view = store.view(1)
    view.advance(3)
    assert (store.length(1), store.lengths.tolist()) == (3, [0, 3, 0])
    store.set_length(1, 0)
    keys, _ = view.extend(0, torch.ones(1, 3, 1, 5), torch.ones(1, 3, 1, 5))
    assert keys.shape == (1, 3, 1, 5)


def test_the_scratch_slot_is_as_short_as_asked():
    store = KVStore(2, 2, 3, 8, 5, torch.device("cpu"), torch.float32, scratch_positions=3)
    assert store.slot_data(store.scratch_slot, 0, 3).shape == (2, 2, 3, 3, 5)
    assert store.num_bytes == 2 * 2 * 3 * (2 * 8 + 3) * 5 * 4


def test_num_bytes_counts_keys_and_values_of_all_slots_and_the_scratch_slot():
    assert make_store().num_bytes == 2 * 2 * (2 + 1) * 3 * 4 * 5 * 4
