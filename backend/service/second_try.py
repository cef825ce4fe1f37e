"""Speech that nobody has heard yet is made once more when its engine dies.

A stream that sounds cannot go on in another engine: the client was told a length of silence it did
not ask for. A whole file, or a segment of a job, is another matter: what there is of it is thrown
away, and the same seed gives the same speech.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from backend.core.errors import EngineDiedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

_Result = TypeVar("_Result")

logger = logging.getLogger(__name__)


async def whole_or_again(
    make: Callable[[], AsyncGenerator[_Result, None]],
) -> AsyncGenerator[_Result, None]:
    """Yield all results of a piece of work once it is done; do it again if the engine dies.

    Args:
        make: Begins the work; called twice at most.

    Raises:
        EngineDiedError: The second engine died as well.
        Exception: Whatever the work raises.
    """
    try:
        results = await _all_of(make())
    except EngineDiedError as error:
        logger.warning("%s; nobody has heard any of it, so it is made again", error)
        results = await _all_of(make())
    for result in results:
        yield result


async def _all_of(work: AsyncGenerator[_Result, None]) -> list[_Result]:
    async with aclosing(work):
        return [result async for result in work]
