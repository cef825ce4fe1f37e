"""Which errors mean that the engine is lost, and how errors get through a pipe."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

from backend.core.errors import GenerationError, TTSError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FAULT_CLASS = "AcceleratorError"
"""torch's class for errors that the driver reports; named, so that nobody here imports torch."""
_FAULT_WORDS = "CUDA error"
"""How older builds and cuBLAS word them. An allocation that failed is worded differently."""


def is_device_fault(error: BaseException) -> bool:
    """Tell whether the device itself failed: no later call of this process will succeed then."""
    return any(_is_fault(cause) for cause in _causes(error) if not isinstance(cause, TTSError))


def portable_error(error: Exception) -> TTSError:
    """Give the error in a form that any process can read.

    Returns:
        The error itself if it is the project's own and survives pickling, else a
        ``GenerationError`` with its words.
    """
    if isinstance(error, TTSError):
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - made here, a line ago
        except Exception:  # noqa: BLE001 - whatever it was, its words are all that can be kept
            return GenerationError(str(error))
        return error
    return GenerationError(f"the engine failed: {type(error).__name__}: {error}")


def _is_fault(error: BaseException) -> bool:
    names = {cls.__name__ for cls in type(error).__mro__}
    return _FAULT_CLASS in names or _FAULT_WORDS in str(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
