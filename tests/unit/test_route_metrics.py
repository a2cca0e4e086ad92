"""Failures of every route are counted from zero."""

from __future__ import annotations

import re
from pathlib import Path

from app.application import create_app
from app.routers.route_metrics import FAILURES
from app.settings import Settings


def test_every_operation_of_the_openapi_document_has_its_failures_at_zero(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path))
    requests = app.state.runtime.infrastructure.metrics.http_requests
    made = {(method, re.sub(r":\w+}", "}", path), status) for (method, path, status), _ in requests.items()}
    wanted = {
        (method.upper(), path, status)
        for path, operations in app.openapi()["paths"].items()
        for method in operations
        for status in FAILURES
    }
    assert len(wanted) > 200
    assert wanted <= made
    assert ("GET", "unmatched", "503") in made
    assert all(series.value == 0 for _, series in requests.items())
