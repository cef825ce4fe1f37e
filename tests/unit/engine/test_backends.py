"""The allocator of a card: told to grow in place where that is wanted and can be."""

from __future__ import annotations

import sys

import pytest
import torch

from backend.core.settings import read_settings
from backend.engine.backends import set_allocator

CARD = torch.device("cuda:0")
WANTED = ["expandable_segments:True"]


@pytest.mark.parametrize(
    ("device", "platform", "is_wanted", "expected"),
    [
        (CARD, "linux", True, WANTED),
        (CARD, "linux", False, []),
        (CARD, "win32", True, []),
        (torch.device("cpu"), "linux", True, []),
    ],
)
def test_memory_grows_in_place_on_a_card_under_linux_unless_it_shall_not(
    monkeypatch, device, platform, is_wanted, expected
):
    told: list[str] = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", told.append, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    set_allocator(read_settings(None, expandable_memory=is_wanted), device)
    assert told == expected


def test_an_older_pytorch_is_told_by_its_own_name(monkeypatch):
    told: list[str] = []
    monkeypatch.delattr(torch._C, "_accelerator_setAllocatorSettings", raising=False)
    monkeypatch.setattr(torch.cuda.memory, "_set_allocator_settings", told.append)
    monkeypatch.setattr(sys, "platform", "linux")
    set_allocator(read_settings(None), CARD)
    assert told == WANTED
