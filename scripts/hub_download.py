"""Downloads from a Hugging Face hub: resumed after an interruption, compared by digest.

Everything a person can do about a refusal (a gated model, a wrong token, no network, a full disk)
is in the error's message. ``scripts/download_model.py`` is the command line.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import hf_hub_url, http_get
from huggingface_hub.utils import build_hf_headers

from backend.core.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from huggingface_hub.hf_api import RepoSibling

REPOSITORIES = {"openaudio-s1-mini": "fishaudio/openaudio-s1-mini"}
FILES = ("config.json", "special_tokens.json", "tokenizer.tiktoken", "codec.pth", "model.pth")
SPARE_BYTES = 64 << 20
"""Left free on the disk beyond the files themselves."""
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Hub:
    """Where to download from: the address, and a token or None for the one of ``hf auth login``."""

    endpoint: str
    token: str | None = None


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it: large files by SHA-256, small ones by git's own SHA-1."""

    name: str
    num_bytes: int
    sha256: str | None
    git_sha1: str

    @property
    def digest(self) -> str:
        """The digest to compare with."""
        return self.sha256 or self.git_sha1

    def digest_of(self, path: Path) -> str:
        """Compute of a file what ``digest`` is of the hub's."""
        if self.sha256 is not None:
            state = hashlib.sha256()
        else:
            header = f"blob {path.stat().st_size}\0".encode()
            state = hashlib.sha1(header, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                state.update(block)
        return state.hexdigest()


def download_model(name: str, folder: Path, hub: Hub) -> dict[str, object]:
    """Fetch all files of a model into ``folder``, keeping those that are there and right.

    Returns:
        Facts about what is in the folder now, ready for JSON.

    Raises:
        CheckpointError: It cannot be fetched; the message says why and what to do.
    """
    started = time.monotonic()
    repository = REPOSITORIES[name]
    try:
        # A renamed repository answers with its new name, and one commit serves all files.
        info = HfApi(endpoint=hub.endpoint, token=hub.token).model_info(
            repository, files_metadata=True, timeout=30.0
        )
        files = pick_files(info.siblings or [], repository)
        folder.mkdir(parents=True, exist_ok=True)
        missing = [file for file in files if not _is_complete(file, folder / file.name)]
        require_disk_space(folder, missing)
        for file in missing:
            url = hf_hub_url(info.id, file.name, revision=info.sha, endpoint=hub.endpoint)
            fetch_file(file, url, folder, hub)
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx2.TransportError) as error:
        raise CheckpointError(explain(error, repository, hub)) from error
    return {
        "model": name,
        "path": str(folder.resolve()),
        "revision": info.sha,
        "files": {file.name: file.digest for file in files},
        "fetched": [file.name for file in missing],
        "seconds": round(time.monotonic() - started, 1),
    }


def pick_files(siblings: list[RepoSibling], repository: str) -> list[HubFile]:
    """Find the model's files in the hub's listing."""
    listed = {item.rfilename: item for item in siblings}
    absent = [name for name in FILES if name not in listed]
    if absent:
        raise CheckpointError(
            f"{repository} holds no {', '.join(absent)}; it lists {', '.join(sorted(listed))}. "
            "Has the model changed, or does HF_ENDPOINT name something else than a hub?"
        )
    found = [listed[name] for name in FILES]
    return [
        HubFile(
            name=item.rfilename,
            num_bytes=item.size or 0,
            sha256=item.lfs.sha256 if item.lfs is not None else None,
            git_sha1=item.blob_id or "",
        )
        for item in found
    ]


def _is_complete(file: HubFile, path: Path) -> bool:
    if not path.is_file() or path.stat().st_size != file.num_bytes:
        return False
    print(f"{file.name}: there already, comparing its digest", file=sys.stderr)
    return file.digest_of(path) == file.digest


def _partial_path(file: HubFile, folder: Path) -> Path:
    # The digest in the name keeps the beginnings of two versions of a file apart.
    return folder / f"{file.name}.{file.digest[:12]}.part"


def require_disk_space(folder: Path, files: list[HubFile]) -> None:
    """Refuse to begin what does not fit on the disk."""
    done = sum(
        path.stat().st_size for file in files if (path := _partial_path(file, folder)).is_file()
    )
    needed = sum(file.num_bytes for file in files) - done + SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if files and free < needed:
        raise CheckpointError(
            f"the disk of {folder} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are "
            "needed: make room, or choose another disk with --dest (and set MODELS_DIR to it)"
        )


def fetch_file(file: HubFile, url: str, folder: Path, hub: Hub) -> None:
    """Download one file, going on where an earlier try stopped, and compare its digest.

    ``hf_hub_download`` throws the beginning of a file away when it is interrupted; ``http_get``
    below it can go on.
    """
    partial = _partial_path(file, folder)
    with partial.open("ab") as output:
        if output.tell() > file.num_bytes:
            output.truncate(0)
        http_get(
            url,
            output,
            resume_size=output.seek(0, os.SEEK_END),
            headers=build_hf_headers(token=hub.token),
            expected_size=file.num_bytes,
            displayed_filename=file.name,
        )
    if file.digest_of(partial) != file.digest:
        partial.unlink()
        raise CheckpointError(
            f"{file.name} arrived damaged: its digest is not the hub's {file.digest}. It was "
            "deleted; run this again"
        )
    partial.replace(folder / file.name)


def explain(error: Exception, repository: str, hub: Hub) -> str:
    """Say what a hub's refusal means and what to do about it."""
    page = f"{hub.endpoint}/{repository}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be downloaded: remove it and run this again"
    if not isinstance(error, HfHubHTTPError):
        return (
            f"the connection to {hub.endpoint} failed ({type(error).__name__}: {error}): check the "
            "network and the proxy, or set HF_ENDPOINT to a mirror, and run this again; what has "
            "arrived is kept"
        )
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return f"{repository} is gated: {_gate_reason(status)}\n{_gate_steps(page, hub)}"
    if status == 401:
        return (
            f"{hub.endpoint} refused the login (401) for {repository}: the token is wrong or has "
            f"expired, or there is none and the model needs one.\n{_gate_steps(page, hub)}"
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return (
            f"{hub.endpoint} does not know {error.response.request.url.path} (404): is "
            f"HF_ENDPOINT a hub? Look at {page} in a browser"
        )
    return f"{hub.endpoint} answered with status {status}: wait a while and run this again"


def _gate_reason(status: int) -> str:
    if status == 403:
        return "the account of this token has not been given access, or the token may not read it."
    return "only people who accepted its terms may download it, and no token was given."


def _gate_steps(page: str, hub: Hub) -> str:
    return (
        "What to do:\n"
        f"  1. Sign in at {hub.endpoint} (an account is free).\n"
        f"  2. Open {page} and accept the terms.\n"
        f'  3. Make a token of the type "Read" at {hub.endpoint}/settings/tokens.\n'
        "  4. Write HF_TOKEN=<the token> into .env and run this again."
    )
