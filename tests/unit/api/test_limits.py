from __future__ import annotations

from contextlib import ExitStack

import pytest

from backend.api.limits import CallerLimits, network_of
from backend.core.errors import RateLimitError


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def use(limits: CallerLimits, caller: str = "a") -> None:
    with limits.open(caller):
        pass


def test_a_burst_up_to_the_limit_passes_and_one_more_does_not():
    limits = CallerLimits(3, 0, clock=Clock())
    for _ in range(3):
        use(limits)
    with pytest.raises(RateLimitError, match="3 requests of this minute"):
        use(limits)


def test_tokens_come_back_evenly_and_the_error_says_when():
    clock = Clock()
    limits = CallerLimits(6, 0, clock=clock)
    for _ in range(6):
        use(limits)
    with pytest.raises(RateLimitError) as refusal:
        use(limits)
    assert refusal.value.retry_after_s == pytest.approx(10.0)
    clock.now_s += 10.0
    use(limits)
    with pytest.raises(RateLimitError):
        use(limits)


def test_a_long_rest_gives_no_more_than_one_burst():
    clock = Clock()
    limits = CallerLimits(2, 0, clock=clock)
    use(limits)
    clock.now_s += 3600
    use(limits)
    use(limits)
    with pytest.raises(RateLimitError):
        use(limits)


def test_callers_do_not_share_a_bucket():
    limits = CallerLimits(1, 0, clock=Clock())
    use(limits, "a")
    use(limits, "b")
    with pytest.raises(RateLimitError):
        use(limits, "a")


def test_open_requests_are_counted_until_they_end():
    limits = CallerLimits(0, 2, clock=Clock())
    with ExitStack() as open_requests:
        open_requests.enter_context(limits.open("a"))
        open_requests.enter_context(limits.open("a"))
        with pytest.raises(RateLimitError, match="2 of your requests are open"):
            use(limits)
        use(limits, "b")
    use(limits)


def test_a_request_that_fails_is_closed_too():
    limits = CallerLimits(0, 1, clock=Clock())
    with pytest.raises(ZeroDivisionError), limits.open("a"):
        _ = 1 / 0
    use(limits)


def test_a_refused_request_is_not_counted_as_open():
    limits = CallerLimits(1, 5, clock=Clock())
    use(limits)
    for _ in range(10):
        with pytest.raises(RateLimitError):
            use(limits)


def test_no_limits_refuse_nothing():
    limits = CallerLimits(0, 0, clock=Clock())
    for _ in range(1000):
        use(limits)


def test_memory_is_bounded_and_the_longest_idle_caller_goes_first():
    limits = CallerLimits(1, 0, clock=Clock(), max_callers=10)
    use(limits, "kept")
    for number in range(5000):
        use(limits, f"caller {number}")
        with pytest.raises(RateLimitError):
            use(limits, "kept")
    assert len(limits) == 10


def test_callers_with_open_requests_are_never_forgotten():
    limits = CallerLimits(0, 1, clock=Clock(), max_callers=2)
    with limits.open("busy"):
        for number in range(50):
            use(limits, str(number))
        with pytest.raises(RateLimitError):
            use(limits, "busy")


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_addresses_of_one_customer_are_one_caller(address: str, counted_as: str):
    assert network_of(address) == counted_as
