"""Regenerate the codec's golden tensors with the official package.

    python scripts/make_reference_env.py      once: the environment of the official package
    python scripts/make_codec_goldens.py      writes tests/data/codec_golden.safetensors

The official codec runs at a tiny size with weights computed from their names; its codes and samples
are stored. ``tests/unit/models/test_codec_golden.py`` holds our codec to them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from safetensors.torch import save_file  # noqa: E402

from tests.parity.codec_cases import TINY, TINY_FRAMES, TINY_RECORDINGS  # noqa: E402
from tests.parity.reference import run_oracle  # noqa: E402

GOLDEN_FILE = ROOT / "tests" / "data" / "codec_golden.safetensors"


def main() -> None:
    job = {
        "sizes": TINY,
        "load": None,
        "save": None,
        "recordings": TINY_RECORDINGS,
        "codes": [],
        "frames": TINY_FRAMES,
    }
    with tempfile.TemporaryDirectory() as folder:
        result = run_oracle("codec_oracle.py", job, Path(folder))
    tensors = {
        f"{kind}.{idx}": tensor.contiguous()
        for kind in ("encoded", "decoded")
        for idx, tensor in enumerate(result[kind])
    }
    save_file(tensors, GOLDEN_FILE, {"made_by": "scripts/make_codec_goldens.py"})
    print(f"wrote {GOLDEN_FILE.relative_to(ROOT)}: {GOLDEN_FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
