"""Make the environment with the official package, the oracle of the parity tests.

    python scripts/make_reference_env.py [--dest .venv-ref]

The package pins versions that this project cannot share, so it gets an environment of its own, and
only the part of its dependencies that the networks need; ``tests/parity/reference_stubs.py`` stands
in for the rest. Nothing of it is used by the product.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PLAIN_REQUIREMENTS = (
    "torch==2.13.0",
    "numpy>=2,<3",
    "einops>=0.8",
    "loguru>=0.7",
    "tiktoken>=0.9",
    "transformers>=5,<6",
    "click>=8",
    "loralib==0.1.2",
    "hydra-core==1.3.8",
    "omegaconf==2.3.1",
    "soundfile>=0.13",
    "tqdm>=4",
)
# Their own pins (numpy<2, protobuf<3.20, lightning, audiotools) are neither needed nor installable
# beside the rest.
REQUIREMENTS_WITHOUT_DEPENDENCIES = ("fish-speech==0.1.0", "descript-audio-codec==1.0.0")


def make_environment(folder: Path) -> Path:
    """Create ``folder`` and install the oracle; return its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run([*install, *PLAIN_REQUIREMENTS], check=True)
    subprocess.run([*install, "--no-deps", *REQUIREMENTS_WITHOUT_DEPENDENCIES], check=True)
    return python


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Install the official package for parity tests.")
    parser.add_argument("--dest", type=Path, default=ROOT / ".venv-ref")
    python = make_environment(parser.parse_args().dest.resolve())
    print(f"Ready: {python}. Run the tests with: python -m pytest -m 'reference and not slow'")


if __name__ == "__main__":
    main()
