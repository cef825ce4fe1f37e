"""The engine's process: commands come in through standard input, events leave by standard output.

It lives as long as its parent: when the pipe closes it ends at once, whatever it is doing.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from backend.core.garbage import keep_for_good
from backend.core.threads import share_interpreter
from backend.worker.engine_loop import EngineLoop
from backend.worker.framing import Outbox, read_message
from backend.worker.protocol import Audio, Began, Crashed, Loaded

if TYPE_CHECKING:
    from backend.worker.protocol import EngineSource, Event

logger = logging.getLogger(__name__)

EXIT_STOPPED = 0
EXIT_CRASHED = 70
EXIT_ORPHANED = 71

LONGEST_WAIT_S = 0.05
"""For the parent to take a note; a parent that is busy for longer must not hold speech up."""

_PR_SET_PDEATHSIG = 1
_PIPE_BUFFER_BYTES = 1 << 16
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


def main() -> NoReturn:
    """Serve the engine that the first message describes, until told to stop."""
    inbound, outbound = _take_pipes()
    _leave_stopping_to_the_parent()
    _end_with_the_parent()
    faulthandler.enable()
    share_interpreter()
    try:
        source, *_ = read_message(inbound)
        source.prepare_process()
        _serve(source, inbound, outbound)
    except EOFError:
        _exit(EXIT_ORPHANED)
    except BaseException:
        logger.exception("the engine's process failed")
        _exit(EXIT_CRASHED)
    _exit(EXIT_STOPPED)


def _serve(source: EngineSource, inbound: BinaryIO, outbound: BinaryIO) -> None:
    outbox = Outbox("engine-events", _sound_bytes)
    outbox.open(outbound)

    def emit(event: Event) -> None:
        if isinstance(event, Began):
            # should this request end the process, the parent must know which it was
            outbox.put_first(event, LONGEST_WAIT_S)
            return
        if isinstance(event, Loaded):
            keep_for_good()
        outbox.put(event)
        if isinstance(event, Crashed):
            outbox.flush()
            _exit(EXIT_CRASHED)  # a lost device hangs in an orderly farewell

    loop = EngineLoop(source, emit)
    reader = threading.Thread(
        target=_read_commands, args=(inbound, loop), name="engine-commands", daemon=True
    )
    reader.start()
    loop.run()
    outbox.flush()


def _sound_bytes(event: Event) -> int:
    return event.chunk.samples.nbytes if isinstance(event, Audio) else 0


def _read_commands(inbound: BinaryIO, loop: EngineLoop) -> None:
    try:
        while True:
            for command in read_message(inbound):
                loop.post(command)
    except EOFError:
        _exit(EXIT_ORPHANED)
    except BaseException:
        logger.exception("the engine's process cannot read its commands")
        _exit(EXIT_CRASHED)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep both pipes for messages; what libraries print goes to standard error instead."""
    sys.stdout.flush()
    inbound = os.fdopen(os.dup(0), "rb", buffering=_PIPE_BUFFER_BYTES)
    outbound = os.fdopen(os.dup(1), "wb", buffering=_PIPE_BUFFER_BYTES)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return inbound, outbound


def _leave_stopping_to_the_parent() -> None:
    """Ignore what a console or a service manager sends to all processes of a group.

    The parent gets the same signal, lets running requests end and then says when to stop.
    """
    for name in _STOP_SIGNALS:  # each system knows some of them
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, signal.SIG_IGN)


def _end_with_the_parent() -> None:
    """Have the kernel end this process with its parent, where it can do that.

    The closed pipe does it everywhere, except while a library holds the interpreter lock for ever.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit(code: int) -> NoReturn:
    """End now: an interpreter's orderly end may hang in libraries that hold the device."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
