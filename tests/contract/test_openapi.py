"""The OpenAPI document is complete, and the page that shows it needs nothing from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from backend.api.dialects import FISH, OPENAI, dialect_of
from backend.api.security import OPEN_PATHS
from backend.app import create_app
from backend.audio.formats import OUTPUT_FORMATS
from tests.conftest import MakeSettings
from tests.fakes import FakeEngineClient

ENVELOPES = {OPENAI.name: {"error"}, FISH.name: {"status", "message"}}
NOT_OFFERED = ("/v1/asr",)
SPEAKS = ("/tts", "/v1/audio/speech", "/v1/tts")
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def make_app(make_settings: MakeSettings) -> Any:
    def make(**changes: Any) -> FastAPI:
        return create_app(make_settings(**changes), FakeEngineClient())

    return make


@pytest.fixture
def document(make_app: Any) -> dict[str, Any]:
    return make_app().openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield f"{method.upper()} {path}", path, operation


def faults(document: dict[str, Any], is_faulty: Any) -> list[str]:
    return [label for label, path, found in operations(document) if is_faulty(label, path, found)]


def test_every_operation_has_a_summary_a_tag_and_a_description(document: dict[str, Any]):
    parts = ("summary", "tags", "description")
    assert faults(document, lambda _, __, found: not all(found.get(part) for part in parts)) == []


def test_every_group_of_operations_is_described_and_speech_comes_first(document: dict[str, Any]):
    assert document["tags"][0]["name"] == "speech"
    assert [tag["name"] for tag in document["tags"] if not tag["description"]] == []


def test_operation_ids_are_distinct(document: dict[str, Any]):
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)


def test_every_success_says_what_it_contains(document: dict[str, Any]):
    def is_vague(label: str, path: str, operation: dict[str, Any]) -> bool:
        good = {k: v for k, v in operation["responses"].items() if k.startswith("2")}
        return (not good and path not in NOT_OFFERED) or any(
            status != "204" and not response.get("content") for status, response in good.items()
        )

    assert faults(document, is_vague) == []


def test_every_content_has_a_schema(document: dict[str, Any]):
    def lacks_schema(label: str, path: str, operation: dict[str, Any]) -> bool:
        answers = operation["responses"].values()
        contents = [content for answer in answers for content in answer.get("content", {}).values()]
        contents += operation.get("requestBody", {}).get("content", {}).values()
        return not all(content.get("schema") for content in contents)

    assert faults(document, lacks_schema) == []


def test_every_operation_that_reads_a_body_says_which(document: dict[str, Any]):
    bodiless = re.compile(r"/(cancel|pause|resume|health|asr)$")

    def is_silent(label: str, path: str, operation: dict[str, Any]) -> bool:
        reads = label.startswith(("POST", "PUT", "PATCH")) and not bodiless.search(path)
        return reads and not operation.get("requestBody", {}).get("content")

    assert faults(document, is_silent) == []


def test_every_operation_documents_its_errors(document: dict[str, Any]):
    def is_incomplete(label: str, path: str, operation: dict[str, Any]) -> bool:
        expected = {"500"}
        if path not in OPEN_PATHS:
            expected |= {"429", "403"}
        if "requestBody" in operation:
            expected |= {"413", "408", str(int(dialect_of(path).validation_status))}
        if "{" in path:
            expected |= {"404"}
        return not expected <= set(operation["responses"])

    assert faults(document, is_incomplete) == []


def test_every_error_has_a_description_and_the_envelope_of_its_dialect(document: dict[str, Any]):
    schemas = document["components"]["schemas"]

    def is_foreign(label: str, path: str, operation: dict[str, Any]) -> bool:
        keys = ENVELOPES.get(dialect_of(path).name, {"error"})
        for status, answer in operation["responses"].items():
            if status < "400" or (path, status) == ("/health/ready", "503"):
                continue
            schema = answer["content"]["application/json"]["schema"]
            schema = schemas[schema["$ref"].rpartition("/")[2]]
            if set(schema["properties"]) != keys or len(answer["description"]) < 15:
                return True
        return False

    assert faults(document, is_foreign) == []


def test_fastapis_own_envelope_is_nowhere(document: dict[str, Any]):
    assert "HTTPValidationError" not in json.dumps(document)


def test_every_reference_leads_somewhere(document: dict[str, Any]):
    references = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references
    assert sorted(references - set(document["components"]["schemas"])) == []


@pytest.mark.parametrize("path", SPEAKS)
def test_speech_is_documented_as_sound_in_every_format(document: dict[str, Any], path: str):
    operation = document["paths"][path]["post"]
    offered = set(operation["responses"]["200"]["content"])
    assert {output.media_type for output in OUTPUT_FORMATS.values()} <= offered
    body = json.dumps(operation["requestBody"]["content"])
    reference = re.search(r"#/components/schemas/(\w+)", body)
    described = body + json.dumps(
        document["components"]["schemas"].get(reference and reference[1], {})
    )
    assert '"example' in described
    for name in OUTPUT_FORMATS:
        assert f'"{name}"' in described


def test_keys_are_part_of_the_document_when_they_are_asked_for(make_app: Any):
    document = make_app(api_keys="correct-horse-battery").openapi()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "x-api-key"}
    for label, path, operation in operations(document):
        assert ("security" in operation) is (path not in OPEN_PATHS), label
        assert ("401" in operation["responses"]) is (path not in OPEN_PATHS), label


def test_no_key_is_mentioned_when_none_is_asked_for(document: dict[str, Any]):
    assert "securitySchemes" not in document["components"]
    assert faults(document, lambda _, __, found: "security" in found) == []


def test_docs_page_and_its_files_come_from_this_server_only(client: TestClient):
    page = client.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    addresses = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page.text)
    assert len(addresses) >= 4
    for address in addresses:
        assert address.startswith("/"), address
        assert not address.startswith("//"), address
        answer = client.get(address)
        assert answer.status_code == 200, address
        assert len(answer.content) > 1000
    assert "://" not in page.text


def test_other_files_of_the_assets_folder_are_not_given(client: TestClient):
    for name in ("redoc.standalone.js", "core.py", "..%2fcore.py", ""):
        assert client.get(f"/docs/assets/{name}").status_code == 404, name
    assert client.get("/redoc").status_code == 404
