"""The one place that reads `app.state`; annotated aliases for handlers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from app.core.errors import BadRequestError, UnsupportedMediaError
from app.core.security import Principal, Role
from app.resources import Resources
from app.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from fastapi.dependencies.models import Dependant


def runtime_of(scope: MutableMapping[str, Any]) -> Runtime:
    """The process's runtime, from an ASGI scope."""
    runtime: Runtime = scope["app"].state.runtime
    return runtime


def principal_of(scope: MutableMapping[str, Any]) -> Principal:
    """Who asks: set by the access middleware on every request and socket that is not public."""
    principal: Principal = scope["state"]["principal"]
    return principal


def _resources(connection: HTTPConnection) -> Resources:
    return runtime_of(connection.scope).resources


def _runtime(connection: HTTPConnection) -> Runtime:
    return runtime_of(connection.scope)


def _reader(connection: HTTPConnection) -> Principal:
    principal = principal_of(connection.scope)
    principal.require(Role.VIEWER, Role.OPERATOR)
    return principal


def _operator(connection: HTTPConnection) -> Principal:
    principal = principal_of(connection.scope)
    principal.require(Role.OPERATOR)
    return principal


def _admin(connection: HTTPConnection) -> Principal:
    principal = principal_of(connection.scope)
    principal.require(Role.ADMIN)
    return principal


def single_values(connection: HTTPConnection) -> None:
    """A parameter that stands twice, or is written as a list, is refused: one of its values would be passed over."""
    names = Counter(name for name, _ in connection.query_params.multi_items())
    for name, times in names.items():
        if times > 1 or name.endswith("[]"):
            raise BadRequestError("each query parameter may stand once; lists are not accepted", parameter=name)


def _bug_reader(connection: HTTPConnection) -> Principal:
    principal = principal_of(connection.scope)
    principal.require(Role.VIEWER, Role.REPORTER, Role.OPERATOR)
    return principal


def _bug_reporter(connection: HTTPConnection) -> Principal:
    principal = principal_of(connection.scope)
    principal.require(Role.REPORTER, Role.OPERATOR)
    return principal


def json_body(connection: HTTPConnection) -> None:
    """A route that reads JSON says 415 to what is said to be something else."""
    if connection.scope["route"].body_field is None:
        return
    kind = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaError("the body must be application/json")


def known_parameters(connection: HTTPConnection) -> None:
    """A query parameter that the route does not know is refused: misspelt, it would be passed over, and what was meant
    to be internal, or narrowed, would not be.
    """
    known = _query_names(connection.scope["route"].dependant)
    for name in connection.query_params:
        if known is not None and name not in known:
            raise BadRequestError("there is no such parameter here", parameter=name)


def _query_names(dependant: Dependant) -> set[str] | None:
    """None where a model reads them all, and refuses by itself."""
    names = {field.alias for field in dependant.query_params}
    if any(
        isinstance(kind := field.field_info.annotation, type) and issubclass(kind, BaseModel)
        for field in dependant.query_params
    ):
        return None
    for inner in dependant.dependencies:
        further = _query_names(inner)
        if further is None:
            return None
        names |= further
    return names


CurrentResources = Annotated[Resources, Depends(_resources)]
CurrentRuntime = Annotated[Runtime, Depends(_runtime)]
Reader = Annotated[Principal, Depends(_reader)]
Operator = Annotated[Principal, Depends(_operator)]
Admin = Annotated[Principal, Depends(_admin)]
BugReader = Annotated[Principal, Depends(_bug_reader)]
BugReporter = Annotated[Principal, Depends(_bug_reporter)]
