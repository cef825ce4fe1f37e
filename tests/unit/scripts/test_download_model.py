from __future__ import annotations

import hashlib
import json
import socket
from typing import TYPE_CHECKING

import pytest

from backend.core.errors import CheckpointError
from scripts import hub_download
from scripts.download_model import main, parse_arguments
from scripts.hub_download import FILES, Hub, HubFile, download_model
from tests.unit.scripts.local_hub import REVISION, LocalHub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "openaudio-s1-mini"
REPOSITORY = hub_download.REPOSITORIES[NAME]
CONTENT = {
    "config.json": b'{"model_type": "dual_ar"}',
    "special_tokens.json": b"{}",
    "tokenizer.tiktoken": b"IQ== 0\n",
    "codec.pth": bytes(range(256)) * 800,
    "model.pth": bytes(reversed(range(256))) * 2000,
    "README.md": b"not asked for",
}


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub(REPOSITORY, dict(CONTENT)) as server:
        yield server


@pytest.fixture(autouse=True)
def no_pause_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nonexistent")


def test_all_files_arrive_and_nothing_else(hub: LocalHub, tmp_path: Path) -> None:
    facts = download_model(NAME, tmp_path / NAME, Hub(hub.endpoint))

    assert {path.name: path.read_bytes() for path in (tmp_path / NAME).iterdir()} == {
        name: CONTENT[name] for name in FILES
    }
    assert facts["revision"] == REVISION
    assert facts["fetched"] == list(FILES)


def test_a_second_run_fetches_nothing(hub: LocalHub, tmp_path: Path) -> None:
    download_model(NAME, tmp_path, Hub(hub.endpoint))
    facts = download_model(NAME, tmp_path, Hub(hub.endpoint))

    assert facts["fetched"] == []
    assert set(hub.downloads.values()) == {1}


def test_a_file_that_was_changed_on_the_disk_is_fetched_again(
    hub: LocalHub, tmp_path: Path
) -> None:
    download_model(NAME, tmp_path, Hub(hub.endpoint))
    (tmp_path / "config.json").write_bytes(CONTENT["config.json"][::-1])

    assert download_model(NAME, tmp_path, Hub(hub.endpoint))["fetched"] == ["config.json"]
    assert (tmp_path / "config.json").read_bytes() == CONTENT["config.json"]


def test_a_cut_connection_is_resumed_where_it_broke(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library writes in steps of 10 MB, far more than these files have.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.cut_after["model.pth"] = 100_000
    download_model(NAME, tmp_path, Hub(hub.endpoint))

    assert (tmp_path / "model.pth").read_bytes() == CONTENT["model.pth"]
    assert hub.ranges["model.pth"] == ["bytes=100000-"]


def test_a_new_run_goes_on_with_what_an_interrupted_run_left(hub: LocalHub, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT["codec.pth"]).hexdigest()
    (tmp_path / f"codec.pth.{digest[:12]}.part").write_bytes(CONTENT["codec.pth"][:70_000])
    download_model(NAME, tmp_path, Hub(hub.endpoint))

    assert (tmp_path / "codec.pth").read_bytes() == CONTENT["codec.pth"]
    assert hub.ranges["codec.pth"] == ["bytes=70000-"]
    assert not list(tmp_path.glob("*.part"))


def test_a_partial_file_that_is_too_long_is_started_again(hub: LocalHub, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT["codec.pth"]).hexdigest()
    (tmp_path / f"codec.pth.{digest[:12]}.part").write_bytes(CONTENT["codec.pth"] + b"!")
    download_model(NAME, tmp_path, Hub(hub.endpoint))

    assert (tmp_path / "codec.pth").read_bytes() == CONTENT["codec.pth"]
    assert "codec.pth" not in hub.ranges


@pytest.mark.parametrize("name", ["model.pth", "config.json"])
def test_damaged_content_is_refused_and_deleted(hub: LocalHub, tmp_path: Path, name: str) -> None:
    hub.damaged.add(name)
    with pytest.raises(CheckpointError, match=f"{name} arrived damaged"):
        download_model(NAME, tmp_path, Hub(hub.endpoint))

    assert not list(tmp_path.glob(f"{name}*"))


def test_a_connection_that_keeps_breaking_keeps_what_arrived(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AlwaysCut(dict[str, int]):
        def pop(self, *_: object) -> int:  # type: ignore[override]
            return 0

    download_model(NAME, tmp_path, Hub(hub.endpoint))
    (tmp_path / "model.pth").unlink()
    digest = hashlib.sha256(CONTENT["model.pth"]).hexdigest()
    partial = tmp_path / f"model.pth.{digest[:12]}.part"
    partial.write_bytes(CONTENT["model.pth"][:5000])
    monkeypatch.setattr(hub, "cut_after", AlwaysCut())

    with pytest.raises(CheckpointError, match=r"(?s)connection to .* failed .*run this again"):
        download_model(NAME, tmp_path, Hub(hub.endpoint))
    assert partial.read_bytes() == CONTENT["model.pth"][:5000]


def test_a_gated_model_without_a_token_is_explained_step_by_step(
    hub: LocalHub, tmp_path: Path
) -> None:
    hub.token = "hf_right"
    with pytest.raises(CheckpointError) as caught:
        download_model(NAME, tmp_path, Hub(hub.endpoint))

    message = str(caught.value)
    assert "is gated" in message
    assert "no token was given" in message
    assert f"Open {hub.endpoint}/{REPOSITORY} and accept the terms" in message
    assert f"{hub.endpoint}/settings/tokens" in message
    assert "HF_TOKEN=" in message


def test_a_gated_model_whose_terms_were_not_accepted_says_so(hub: LocalHub, tmp_path: Path) -> None:
    hub.token, hub.accepted = "hf_right", False
    with pytest.raises(CheckpointError, match="has not been given access") as caught:
        download_model(NAME, tmp_path, Hub(hub.endpoint, "hf_right"))
    assert "accept the terms" in str(caught.value)


def test_a_token_with_access_opens_a_gated_model(hub: LocalHub, tmp_path: Path) -> None:
    hub.token = "hf_right"
    facts = download_model(NAME, tmp_path, Hub(hub.endpoint, "hf_right"))
    assert facts["fetched"] == list(FILES)


def test_a_wrong_token_is_named_and_not_shown(hub: LocalHub, tmp_path: Path) -> None:
    hub.token = "hf_right"
    with pytest.raises(CheckpointError, match=r"\(401\).*token is wrong") as caught:
        download_model(NAME, tmp_path, Hub(hub.endpoint, "hf_wrong"))
    assert "hf_wrong" not in str(caught.value)


def test_an_unknown_model_gives_404_and_what_to_look_at(tmp_path: Path) -> None:
    with (
        LocalHub("somebody/else", {}) as hub,
        pytest.raises(CheckpointError, match=r"\(404\): is HF_ENDPOINT a hub\?"),
    ):
        download_model(NAME, tmp_path, Hub(hub.endpoint))


def test_a_renamed_model_is_followed(tmp_path: Path) -> None:
    with LocalHub("fishaudio/new-name", dict(CONTENT), renamed_from=REPOSITORY) as hub:
        facts = download_model(NAME, tmp_path, Hub(hub.endpoint))
    assert facts["fetched"] == list(FILES)


def test_missing_files_are_listed(hub: LocalHub, tmp_path: Path) -> None:
    del hub.files["tokenizer.tiktoken"]
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.tiktoken"):
        download_model(NAME, tmp_path, Hub(hub.endpoint))


def test_an_overloaded_hub_asks_for_patience(hub: LocalHub, tmp_path: Path) -> None:
    hub.status = 503
    with pytest.raises(CheckpointError, match="status 503: wait a while"):
        download_model(NAME, tmp_path, Hub(hub.endpoint))


def test_no_network_is_explained(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(CheckpointError, match="check the network and the proxy"):
            download_model(NAME, tmp_path, Hub(endpoint))


def test_offline_mode_is_explained(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        download_model(NAME, tmp_path, Hub(hub.endpoint))


def test_a_full_disk_is_refused_before_anything_is_fetched(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1 << 20

    monkeypatch.setattr("scripts.hub_download.shutil.disk_usage", lambda path: Usage)
    with pytest.raises(CheckpointError, match=r"free, but .* GB are needed.*--dest"):
        download_model(NAME, tmp_path, Hub(hub.endpoint))
    assert not hub.downloads


def test_small_files_are_compared_by_gits_own_digest(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello\n")
    # What "git hash-object" prints for this content.
    known = "ce013625030ba8dba906f756967f9e9ca394464a"
    assert HubFile("x", 6, None, known).digest_of(tmp_path / "x") == known


def test_the_command_line_reads_the_settings_and_ends_with_json(
    hub: LocalHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.token = "hf_right"
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(
        f"HF_ENDPOINT={hub.endpoint}/\nHF_TOKEN=hf_right\nMODELS_DIR=models\n", encoding="utf-8"
    )
    assert main([]) == 0

    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["path"] == str((tmp_path / "models" / NAME).resolve())
    assert facts["files"]["model.pth"] == hashlib.sha256(CONTENT["model.pth"]).hexdigest()


def test_the_command_line_ends_with_1_and_the_reason_when_it_fails(
    hub: LocalHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.token = "hf_right"
    monkeypatch.chdir(tmp_path)
    assert main(["--endpoint", hub.endpoint, "--dest", str(tmp_path)]) == 1
    assert "error: fishaudio/openaudio-s1-mini is gated" in capsys.readouterr().err


def test_only_known_models_are_offered(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["gpt-tts"])
    assert "openaudio-s1-mini" in capsys.readouterr().err
