"""Answers of the official package that are small enough to ship.

``scripts/make_goldens.py`` writes them; the default test run reads them. Long float tensors are
thinned: every ``n``-th entry along the last two axes is kept, on the official side and on ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

DUAL_AR_GOLDENS = Path(__file__).resolve().parents[1] / "data" / "dual_ar_goldens.npz"

STRIDES: dict[str, tuple[int, ...]] = {  # per axis of a forward pass's results
    "hidden": (5, 1),
    "logits": (3,),
    "projected": (1,),
    "fast_logits": (1, 8),
}
_TEXT_KEY = "text"  # everything that is not a tensor, as JSON


def thin(name: str, values: Tensor) -> Tensor:
    """Keep what the goldens keep of the forward result ``name``."""
    return values[tuple(slice(None, None, stride) for stride in STRIDES[name])]


def pack(results: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Flatten oracle results into arrays. bfloat16 results are left out."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    plain: dict[str, Any] = {}
    for name, result in results.items():
        if name.endswith("/forward"):
            for key, values in result.items():
                arrays[f"{name}/{key}"] = thin(key, values).numpy()
        elif isinstance(result, Tensor):
            arrays[name] = result.to(torch.int16).numpy()
        elif name == "sampling":
            plain[name] = [
                {k: v for k, v in step.items() if not isinstance(v, Tensor)} for step in result
            ]
            for index, step in enumerate(result):
                for key in ("logits", "noise", "recent"):
                    arrays[f"{name}/{index}/{key}"] = step[key].numpy()
        elif not name.endswith("_bf16"):
            plain[name] = result
    arrays[_TEXT_KEY] = np.array(json.dumps(plain, ensure_ascii=True))
    return arrays


def read_goldens(path: Path = DUAL_AR_GOLDENS) -> dict[str, Any]:
    """Oracle results as ``dual_ar_oracle.py`` gives them, thinned."""
    results: dict[str, Any] = {}
    with np.load(path) as file:
        plain = json.loads(str(file[_TEXT_KEY]))
        for name in file.files:
            if name == _TEXT_KEY:
                continue
            values = torch.from_numpy(file[name])
            values = values if values.is_floating_point() else values.long()
            head, _, key = name.rpartition("/")
            if head.endswith("/forward"):
                results.setdefault(head, {})[key] = values
            elif head.startswith("sampling/"):
                plain["sampling"][int(head.removeprefix("sampling/"))][key] = values
            else:
                results[name] = values
    return results | plain
