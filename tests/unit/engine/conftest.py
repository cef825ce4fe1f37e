"""What tests of the engine share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from backend.models.checkpoint import load_dual_ar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.models.dual_ar import DualAR

POCKET = Path(__file__).parents[3] / "backend" / "pocket"


@pytest.fixture
def one_thread_and_no_gradients() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> DualAR:
    """The transformer of the pocket voice."""
    return load_dual_ar(POCKET, "cpu", torch.float32)
