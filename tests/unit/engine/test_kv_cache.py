"""Keys and values outside the network."""

import pytest
import torch

from backend.engine.kv_cache import KVCache


def make_cache(max_positions: int = 4) -> KVCache:
    return KVCache(2, 3, max_positions, 5, torch.device("cpu"), torch.float32)


def test_extend_returns_all_positions_so_far_per_layer():
    cache = make_cache()
    first = torch.randn(1, 3, 2, 5)
    for layer_idx in range(2):
        cache.extend(layer_idx, first + layer_idx, -first)
    cache.advance(2)
    second = torch.randn(1, 3, 1, 5)
    keys, values = cache.extend(1, second, -second)
    assert torch.equal(keys, torch.cat([first + 1, second], dim=2))
    assert torch.equal(values, -torch.cat([first, second], dim=2))


def test_a_position_beyond_the_room_is_refused():
    cache = make_cache(max_positions=2)
    with pytest.raises(IndexError, match="position 2 is beyond the cache's 2"):
        cache.extend(0, torch.zeros(1, 3, 3, 5), torch.zeros(1, 3, 3, 5))


def test_reset_makes_room_again():
    cache = make_cache(max_positions=1)
    cache.advance(1)
    cache.reset()
    keys, _ = cache.extend(0, torch.ones(1, 3, 1, 5), torch.ones(1, 3, 1, 5))
    assert keys.shape == (1, 3, 1, 5)


def test_num_bytes_counts_keys_and_values():
    assert make_cache().num_bytes == 2 * 2 * 3 * 4 * 5 * 4
