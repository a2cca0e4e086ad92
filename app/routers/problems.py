"""Errors over HTTP: RFC 9457 problem+json, made in one place, never from an exception's text."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.core.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI
    from starlette.requests import Request

MEDIA_TYPE = "application/problem+json"


def problem(
    status: int, code: str, detail: str, *, retry_after_s: float | None = None, **more: Any
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of a problem document."""
    body = {"type": f"urn:gaveurs:problem:{code}", "title": HTTPStatus(status).phrase, "status": status}
    body |= {"detail": detail, "code": code, **more}
    headers = {"content-type": MEDIA_TYPE}
    if retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(retry_after_s))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return status, headers, json.dumps(body, ensure_ascii=False).encode()


def of_error(error: AppError) -> tuple[int, dict[str, str], bytes]:
    return problem(error.status, error.code, error.detail, retry_after_s=error.retry_after_s, **error.more)


def _respond(parts: tuple[int, dict[str, str], bytes]) -> Response:
    status, headers, body = parts
    return Response(body, status, headers)


async def _app_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, AppError):
        raise error
    return _respond(of_error(error))


async def _http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    phrase = HTTPStatus(error.status_code).phrase
    more: dict[str, Any] = {}
    if error.status_code == HTTPStatus.BAD_REQUEST:  # of the framework's own: a body that it cannot read
        more["errors"] = [{"pointer": "#", "why": "this is no JSON in UTF-8"}]
    response = _respond(problem(error.status_code, phrase.lower().replace(" ", "_"), phrase, **more))
    response.headers.update(error.headers or {})
    return response


async def _invalid(_request: Request, error: Exception) -> Response:
    """Which parameter or field is wrong and why; what stood there is not echoed."""
    if not isinstance(error, RequestValidationError):
        raise error
    errors = [
        _place(("body",) if item["type"] == "json_invalid" else item["loc"]) | {"why": item["msg"]}
        for item in error.errors()
    ]
    return _respond(problem(422, "invalid_request", "the request holds invalid values", errors=errors))


def _place(location: Sequence[str | int]) -> dict[str, str]:
    """Where a value stands: dotted; in a body also as a JSON pointer, elsewhere as a parameter's name."""
    where = {"where": ".".join(map(str, location))}
    kind, *path = location
    if kind != "body":
        return where | {"parameter": str(path[0])} if path else where
    return where | {"pointer": "#" + "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)}


async def _defect(_request: Request, _error: Exception) -> Response:
    return _respond(problem(500, "internal_error", "an internal error; the log tells more under this request's id"))


def install(app: FastAPI) -> None:
    """Register the renderers."""
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _defect)
