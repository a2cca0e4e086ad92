"""Requests made from the OpenAPI document, good and bad, with the ids of things that exist."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

if TYPE_CHECKING:
    from tests.support import Server

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
NOT_HTTP = b"Invalid HTTP request received."  # the server's parser, to a line that is longer than it reads
EXEMPT = {
    "PUT /api/admin/breakers/{name}",  # forcing the database's breaker open is answered 503 by all that follow
    "POST /api/session",  # sets a cookie
}


def fuzz(server: Server, known: dict[str, list[str]], *, examples: int, start: int = 0) -> Counter[tuple[str, int]]:
    """Ask every operation `examples` times each with data that fits its schema and data that does not; path parameters
    are often `known` ones. Fails at the first answer that is a 5xx, not documented, or not as documented; what was
    answered how often.
    """
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen: Counter[tuple[str, int]] = Counter()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.label not in EXEMPT:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                _ask(operation, mode, known, examples, start, seen)
    return seen


def _ask(
    operation: Any, mode: GenerationMode, known: dict[str, list[str]], examples: int, start: int, seen: Counter[Any]
) -> None:
    names = [name for name in known if f"{{{name}}}" in operation.path]

    @seed(start)
    @settings(
        max_examples=examples, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def ask(case: Any, data: st.DataObject) -> None:
        for name in names:
            if data.draw(st.integers(0, 3)):
                case.path_parameters[name] = data.draw(st.sampled_from(known[name]))
        answer = case.call(timeout=20)
        seen[operation.label, answer.status_code] += 1
        if answer.content != NOT_HTTP:
            case.validate_response(answer, checks=CHECKS)

    with suppress(Unsatisfiable):  # what takes no parameters cannot be given bad ones
        ask()
