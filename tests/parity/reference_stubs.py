"""Make the official package importable where its heavier dependencies are absent.

Runs inside the reference environment only, before anything of ``fish_speech`` is imported. Each
stand-in is an empty module with the few names that are looked up at import time; none of them is
used while the networks run.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any, ClassVar

import torch


class _Anything:
    """Stands in for a class that is named but never used."""


class _BaseModel(torch.nn.Module):
    EXTERN: ClassVar[list[str]] = []
    INTERN: ClassVar[list[str]] = []

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def _module(name: str, **names: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__dict__.update(names)
    sys.modules[name] = module
    return module


def _package(name: str, **names: Any) -> types.ModuleType:
    package = _module(name, **names)
    package.__path__ = []
    return package


def install() -> None:
    """Put the stand-ins into ``sys.modules``."""
    ml = _module("audiotools.ml", BaseModel=_BaseModel, Accelerator=_Anything)
    _package("audiotools", ml=ml, AudioSignal=_Anything, STFTParams=_Anything)
    _module("argbind", bind=lambda *_args, **_kwargs: lambda function: function)
    _module("librosa")
    _module("torchaudio", list_audio_backends=lambda: ["soundfile"])
    if importlib.util.find_spec("soundfile") is None:  # it reads and writes files
        _module("soundfile")


install()
