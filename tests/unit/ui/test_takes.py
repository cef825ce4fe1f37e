from __future__ import annotations

import threading

from ui.takes import MAX_BYTES_PER_PULL, LiveTake, TakeShelf


def test_a_reader_gets_everything_after_the_byte_it_has():
    take = LiveTake(24_000)
    take.append(b"abcd")
    assert take.read(0, 0) == (b"abcd", False)
    take.append(b"ef")
    assert take.read(4, 0) == (b"ef", False)
    assert take.read(6, 0) == (b"", False)


def test_the_end_is_told_with_the_last_bytes():
    take = LiveTake(24_000)
    take.append(b"abcd")
    take.finish()
    assert take.read(0, 0) == (b"abcd", True)
    assert take.read(4, 0) == (b"", True)


def test_a_long_take_is_read_in_pieces_and_only_the_last_is_the_end():
    take = LiveTake(24_000)
    take.append(bytes(MAX_BYTES_PER_PULL + 2))
    take.finish()
    first, is_last = take.read(0, 0)
    assert (len(first), is_last) == (MAX_BYTES_PER_PULL, False)
    assert take.read(len(first), 0) == (bytes(2), True)


def test_a_waiting_reader_is_woken_by_the_next_samples():
    take = LiveTake(24_000)
    got: list[tuple[bytes, bool]] = []
    reader = threading.Thread(target=lambda: got.append(take.read(0, 30)))
    reader.start()
    take.append(b"ab")
    reader.join(timeout=10)
    assert got == [(b"ab", False)]


def test_a_waiting_reader_is_woken_by_the_end():
    take = LiveTake(24_000)
    got: list[tuple[bytes, bool]] = []
    reader = threading.Thread(target=lambda: got.append(take.read(0, 30)))
    reader.start()
    take.finish()
    reader.join(timeout=10)
    assert got == [(b"", True)]


def test_the_duration_counts_16_bit_samples():
    take = LiveTake(24_000)
    take.append(bytes(24_000))
    assert take.duration_s == 0.5


def test_the_shelf_drops_and_finishes_the_oldest():
    shelf = TakeShelf(max_takes=2)
    takes = [LiveTake(24_000) for _ in range(3)]
    for take in takes:
        shelf.add(take)
    assert shelf.find(takes[0].take_id) is None
    assert shelf.find(takes[2].take_id) is takes[2]
    assert takes[0].read(0, 0) == (b"", True)
