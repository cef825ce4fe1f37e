"""Every hostile request is refused clearly, costs no speech, and leaves the server well."""

from __future__ import annotations

import re

import pytest

from tests.hostile.cases import ALL_CASES, ID_PATHS, JSON_ENDPOINTS, UPLOADS, Case
from tests.hostile.conftest import Target
from tests.hostile.envelopes import message_of

SAFE_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9-]+)*")
ENDPOINTS = sorted({*JSON_ENDPOINTS, *ID_PATHS, *((m, p) for p, (m, _, _) in UPLOADS.items())})
HELLO = {"text": "The server is well."}


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_hostile_request_is_refused_and_the_server_goes_on(target: Target, case: Case):
    before = len(target.engine.requests)
    answer = target.client.request(case.method, case.path, **case.sent)
    if not (case.may_pass and answer.is_success):
        assert answer.status_code in case.statuses, (answer.status_code, answer.text[:500])
        if case.method != "HEAD":
            message_of(answer, case.path.partition("?")[0])
        assert len(target.engine.requests) == before
    spoken = target.client.post("/tts", json=HELLO)
    assert spoken.status_code == 200
    assert spoken.content[:4] == b"RIFF"


def test_the_table_has_more_than_200_cases_with_names_of_their_own():
    names = [case.name for case in ALL_CASES]
    assert len(set(names)) == len(names)
    assert len(names) > 200


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_every_endpoint_of_the_table_exists(target: Target, method: str, path: str):
    assert target.has_route(method, path.format("x"))


def test_hostile_names_left_no_file_of_that_name(target: Target):
    """Names are data: folders hold digests and fixed names only."""
    root = target.root
    assert {path.name for path in root.iterdir()} <= {"model", "data"}
    odd = [
        path.relative_to(root)
        for path in (root / "data").rglob("*")
        if not SAFE_FILE_NAME.fullmatch(path.name) or path.is_symlink()
    ]
    assert odd == []
    assert sorted(path.name for path in (root / "model").rglob("*.json")) == [
        "alto.json",
        "basso.json",
        "config.json",
    ]
