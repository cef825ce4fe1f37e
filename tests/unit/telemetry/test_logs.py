from __future__ import annotations

import io
import json
import logging
import threading
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from backend.telemetry.logs import (
    REDACTED,
    LogFormat,
    LogLevel,
    current_request_id,
    request_context,
    setup_logging,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("backend.test")


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def stream(
    log_format: LogFormat = "text", level: LogLevel = "info", secrets: tuple[str, ...] = ()
) -> io.StringIO:
    out = io.StringIO()
    setup_logging(level, log_format, secrets=secrets, stream=out)
    return out


def test_text_lines_say_when_how_bad_where_and_what() -> None:
    out = stream()
    log.warning("disk is %d %% full", 93)
    when, level, where, message = out.getvalue().strip().split(maxsplit=3)
    moment = datetime.fromisoformat(when)
    assert moment.utcoffset() is not None
    assert (level, where, message) == ("WARNING", "backend.test", "disk is 93 % full")


def test_json_lines_are_objects_with_the_same_facts() -> None:
    out = stream("json")
    log.info("hello %s", "wörld")
    entry = json.loads(out.getvalue())
    assert (entry["level"], entry["logger"], entry["message"]) == (
        "info",
        "backend.test",
        "hello wörld",
    )
    assert "request_id" not in entry
    assert "traceback" not in entry


@pytest.mark.parametrize(
    ("level", "written"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)]
)
def test_the_level_is_the_least_severe_that_is_written(level: LogLevel, written: int) -> None:
    out = stream(level=level)
    for method in (log.debug, log.info, log.warning, log.error):
        method("line")
    assert out.getvalue().count("line") == written


def test_lines_inside_a_request_carry_its_id() -> None:
    out = stream("json")
    log.info("before")
    with request_context("req-1"):
        log.info("inside")
        with request_context("req-2"):
            log.info("deeper")
        assert current_request_id() == "req-1"
    log.info("after")
    ids = [json.loads(line).get("request_id") for line in out.getvalue().splitlines()]
    assert ids == [None, "req-1", "req-2", None]


def test_the_id_ends_with_the_request_even_when_it_fails() -> None:
    with pytest.raises(RuntimeError), request_context("req-1"):
        raise RuntimeError
    assert current_request_id() is None


def test_another_thread_has_another_request() -> None:
    seen: list[str | None] = []
    with request_context("req-1"):
        thread = threading.Thread(target=lambda: seen.append(current_request_id()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_text_line_names_the_request() -> None:
    out = stream()
    with request_context("req-9"):
        log.info("hi")
    assert "backend.test [req-9] hi" in out.getvalue()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_never_reach_the_stream(log_format: LogFormat) -> None:
    out = stream(log_format, secrets=("s3cret-pass", ""))
    log.info("token hf_abcdefGHIJKL1234 and s3cret-pass")
    log.info("Authorization: Bearer eyJhbGciOi.J9-x_y")
    log.info("GET /x?token=abc123&voice=kit and api_key=zzz999")
    try:
        float("bad token hf_abcdefGHIJKL1234")
    except ValueError:
        log.exception("failed with s3cret-pass")
    written = out.getvalue()
    for secret in ("hf_abcdef", "s3cret-pass", "eyJhbGciOi", "abc123", "zzz999"):
        assert secret not in written
    assert written.count(REDACTED) >= 7
    assert "voice=kit" in written


def test_a_client_cannot_forge_a_line() -> None:
    out = stream()
    log.info("voice %s", "kit\n2026-01-01T00:00:00Z ERROR root all is lost\r\x1b[31m")
    assert len(out.getvalue().splitlines()) == 1
    assert "\x1b" not in out.getvalue()
    assert r"kit\n2026" in out.getvalue()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_comes_with_its_traceback(log_format: LogFormat) -> None:
    out = stream(log_format)
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        log.exception("sum failed")
    assert "Traceback" in out.getvalue()
    assert "ZeroDivisionError: division by zero" in out.getvalue()
    if log_format == "json":
        assert "by zero" in json.loads(out.getvalue())["traceback"]


def test_setting_up_again_replaces_the_first_set_up() -> None:
    first, second = stream(), stream("json")
    log.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_the_web_servers_lines_come_once_and_in_our_form() -> None:
    access = logging.getLogger("uvicorn.access")
    noisy = logging.StreamHandler(io.StringIO())
    access.addHandler(noisy)
    access.propagate = False
    out = stream()
    access.info("GET /health 200")
    assert out.getvalue().count("GET /health 200") == 1
    assert noisy not in access.handlers


def test_words_of_uvicorn_that_ours_say_better_are_dropped() -> None:
    out = stream()
    uvicorn_log = logging.getLogger("uvicorn.error")
    uvicorn_log.error("ASGI callable returned without completing response.")
    uvicorn_log.error("ASGI callable returned without completing handshake.")
    uvicorn_log.error("something else")
    (line,) = out.getvalue().splitlines()
    assert line.endswith("something else")
