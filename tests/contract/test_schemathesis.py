"""The OpenAPI document against the app: what it describes is what is answered, and never a 500.

schemathesis invents requests for every operation, right and wrong ones. The default run takes a
few for each, always the same; ``-m slow`` takes many.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
NOT_OFFERED = {"POST /v1/asr"}
"""Answers 501, which is a server error to schemathesis."""

GENERATOR_FAULT = "Unsupported type: 'Binary'"
"""What schemathesis 4.32 stops with at one mutated upload form, before it sends anything."""


def probe(operation: Any, mode: GenerationMode, max_examples: int) -> None:
    """Send requests to one operation; raise with what its answers should not be."""

    @seed(20)
    @settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    send()


def probe_all(api: Any, subtests: pytest.Subtests, max_examples: int) -> None:
    operations = [result.ok() for result in api.get_all_operations()]
    for operation in operations:
        if operation.label in NOT_OFFERED:
            continue
        with subtests.test(operation.label, mode="right"):
            probe(operation, GenerationMode.POSITIVE, max_examples)
        with subtests.test(operation.label, mode="wrong"), suppress(Unsatisfiable):
            # Unsatisfiable: it has no input, or any text is right, so nothing wrong can be sent.
            probe_wrong(operation, max_examples)


def probe_wrong(operation: Any, max_examples: int) -> None:
    """Send wrong requests until there are enough, or schemathesis fails to invent the next one."""
    try:
        probe(operation, GenerationMode.NEGATIVE, max_examples)
    except ValueError as error:
        if GENERATOR_FAULT not in str(error):
            raise


def test_every_operation_answers_as_documented(api: Any, subtests: pytest.Subtests):
    probe_all(api, subtests, max_examples=4)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_operation_answers_as_documented_whatever_is_sent(
    api: Any, subtests: pytest.Subtests
):
    probe_all(api, subtests, max_examples=300)
