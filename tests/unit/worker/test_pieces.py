"""Delays, faults and messages: the small parts of the worker."""

import io
import os
import pickle
import threading
from pathlib import Path

import pytest

from backend.core.errors import GenerationError, PromptTooLongError, QueueFullError, TTSError
from backend.core.settings import Settings
from backend.worker.build import OptimizedEngineSource
from backend.worker.faults import is_device_fault, portable_error
from backend.worker.framing import MOST_BYTES, Outbox, read_message, write_message
from backend.worker.process_transport import _obituary
from backend.worker.restart_policy import Backoff, RestartPolicy
from tests.unit.worker.sources import AcceleratorError


def test_delays_double_up_to_a_limit_and_begin_anew_after_steady_service():
    backoff = Backoff(RestartPolicy())
    assert [backoff.next_s(None) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.next_s(59.9) == 30
    assert [backoff.next_s(60.0), backoff.next_s(1.0)] == [0.5, 1.0]


def test_the_settings_make_the_policy():
    settings = Settings(_env_file=None, engine_hang_timeout_s=7, engine_load_timeout_s=11)  # pyright: ignore[reportCallIssue]
    policy = RestartPolicy.of(settings)
    assert (policy.hang_timeout_s, policy.load_timeout_s) == (7, 11)


def caused_by(error: Exception) -> Exception:
    wrapped = GenerationError("the engine failed")
    wrapped.__cause__ = error
    return wrapped


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (AcceleratorError("x"), True),
        (caused_by(AcceleratorError("x")), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (caused_by(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED")), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (GenerationError("no voice is called 'CUDA error'"), False),
        (caused_by(ValueError("x")), False),
    ],
)
def test_a_lost_device_is_told_from_a_failed_request(error: Exception, is_fault: bool):
    assert is_device_fault(error) is is_fault


class TwoArgumentsError(TTSError):
    def __init__(self, message: str, more: int) -> None:
        super().__init__(message)
        self.more = more


def test_errors_keep_their_class_where_they_can():
    again = pickle.loads(pickle.dumps(portable_error(QueueFullError("full", retry_after_s=7.5))))
    assert isinstance(again, QueueFullError)
    assert (str(again), again.retry_after_s) == ("full", 7.5)
    assert type(portable_error(PromptTooLongError("long"))) is PromptTooLongError


@pytest.mark.parametrize("error", [TwoArgumentsError("words", 2), ZeroDivisionError("words")])
def test_other_errors_keep_their_words(error: Exception):
    carried = portable_error(error)
    assert type(carried) is GenerationError
    assert "words" in str(carried)


def test_a_message_arrives_whole_or_not_at_all():
    stream = io.BytesIO()
    write_message(stream, ("a", 1))
    write_message(stream, "b")
    content = stream.getvalue()
    whole = io.BytesIO(content)
    assert [read_message(whole), read_message(whole)] == [("a", 1), "b"]
    for length in (0, 3, 8, len(content) // 3):
        with pytest.raises(EOFError):
            read_message(io.BytesIO(content[:length]))


def test_an_outbox_writes_in_order_what_came_before_and_after_it_opened():
    reading, writing = os.pipe()
    outbox = Outbox("test")
    outbox.put(1)
    with os.fdopen(writing, "wb") as stream, os.fdopen(reading, "rb") as other:
        outbox.open(stream)
        outbox.flush()
        assert read_message(other) == (1,)
        outbox.put(2)
        outbox.put(3)
        outbox.close()
        received = read_message(other)
        if len(received) < 2:
            received += read_message(other)
        assert received == (2, 3)


def test_what_is_urgent_overtakes_all_but_the_message_at_hand():
    reading, writing = os.pipe()
    outbox = Outbox("test", len)
    large = b"x" * MOST_BYTES  # more than a pipe holds, so the first message is stuck
    for _ in range(3):
        outbox.put(large)
    with os.fdopen(writing, "wb") as stream, os.fdopen(reading, "rb") as other_end:
        outbox.open(stream)
        outbox.put_first("urgent", wait_s=0.0)  # nobody reads: whoever asks goes on all the same
        outbox.put(b"last")
        ending = threading.Thread(target=outbox.close)
        ending.start()
        messages = [read_message(other_end)]
        while b"last" not in messages[-1]:
            messages.append(read_message(other_end))
        ending.join()
    sizes = [len(message) for message in messages]
    assert [item for message in messages for item in message].count(large) == 3
    assert ("urgent",) in messages[:2]
    assert max(sizes) == 1


def test_urgent_items_are_written_when_the_call_returns():
    reading, writing = os.pipe()
    outbox = Outbox("test")
    with os.fdopen(writing, "wb") as stream, os.fdopen(reading, "rb") as other_end:
        outbox.open(stream)
        for number in range(3):
            outbox.put_first(number, wait_s=60.0)
            assert read_message(other_end) == (number,)
        outbox.close()


def test_an_outbox_whose_reader_is_gone_holds_nobody_up():
    reading, writing = os.pipe()
    os.close(reading)
    outbox = Outbox("test")
    stream = os.fdopen(writing, "wb", buffering=0)
    outbox.open(stream)
    for _ in range(3):
        outbox.put("lost")
        outbox.flush()
    outbox.close()
    stream.close()


def test_the_real_source_can_be_sent_to_another_process(tmp_path: Path):
    settings = Settings(_env_file=None, hf_token="hf_secret123")  # pyright: ignore
    source = pickle.loads(pickle.dumps(OptimizedEngineSource(settings, tmp_path)))
    assert source == OptimizedEngineSource(settings, tmp_path)
    assert source.settings.hf_token.get_secret_value() == "hf_secret123"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (70, "ended with code 70"),
        (0xC0000005, "ended with code 0xc0000005"),
        (-11, "was ended by SIGSEGV"),
        (-9, "memory runs out"),
        (-99, "was ended by signal 99"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="names of POSIX signals")
def test_an_end_is_worded_for_people(code: int, words: str):
    assert words in _obituary(code)
