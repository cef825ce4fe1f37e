"""Tiny checkpoints for the tests of the semantic networks and their files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.parity.tiny_checkpoint import write_tiny_checkpoint

# Tiny networks: a second thread gains nothing, and on shared cores threads spin for each other.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[3]
POCKET = ROOT / "backend" / "pocket"
OFFICIAL_DIRECTORY = Path(
    os.environ.get("FISH_OFFICIAL_MODEL") or ROOT / "checkpoints" / "openaudio-s1-mini"
)
"""Where the official files are looked for; the tests that need them are collected only there."""

collect_ignore = (
    [] if (OFFICIAL_DIRECTORY / "tokenizer.tiktoken").is_file() else ["test_official_tokenizer.py"]
)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the switches of S1-mini. Read it, never write to it."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "s1", "s1")


@pytest.fixture(scope="session")
def turned_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with every switch the other way. Read it, never write to it."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "turned", "turned")
