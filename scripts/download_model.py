"""Fetch the official OpenAudio S1-mini weights from Hugging Face.

    python scripts/download_model.py [openaudio-s1-mini] [--dest checkpoints]

A download that was cut off goes on where it stopped, and every file is compared with the digest
that the hub lists for it. The last line of the output is JSON. Started with a Python that lacks
the project's packages, it makes the environment first and goes on there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.core.errors import TTSError
from scripts.environment import ROOT, ensure_environment

MODELS = ("openaudio-s1-mini",)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Fetch official weights from Hugging Face.")
    add = parser.add_argument
    add("model", nargs="?", choices=MODELS, default=MODELS[0])
    add("--dest", type=Path, help="folder of models (default: MODELS_DIR)")
    add("--endpoint", help="address of the hub (default: HF_ENDPOINT)")
    add("--token", help="access token (default: HF_TOKEN; better kept in .env than typed here)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Download, and print what is there now.

    Raises:
        TTSError: A setting is malformed or the download failed; the message says what to do.
    """
    # Here, because this file must start without the project's packages.
    from backend.core.settings import read_settings
    from scripts.hub_download import Hub, download_model

    settings = read_settings()
    secret = settings.hf_token
    token = options.token or (secret.get_secret_value() if secret else None)
    hub = Hub((options.endpoint or settings.hf_endpoint).rstrip("/"), token)
    folder = (options.dest or settings.models_dir).expanduser() / options.model
    facts = download_model(options.model, folder, hub)
    print(f"{options.model} is in {folder}. Use it with MODEL={options.model}")
    print(json.dumps(facts))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    options = parse_arguments(arguments)
    try:
        if importlib.util.find_spec("huggingface_hub") is None:
            python = ensure_environment(ROOT / "requirements.txt")
            return subprocess.call([python, __file__, *(arguments or sys.argv[1:])])
        run(options)
    except TTSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run this again to go on where it stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
