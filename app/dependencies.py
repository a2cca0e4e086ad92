"""The one place that reads `app.state`; annotated aliases for handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.core.errors import BadRequestError
from app.core.security import Principal, Role
from app.resources import Resources
from app.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import MutableMapping


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
    names = [name for name, _ in connection.query_params.multi_items()]
    if len(set(names)) < len(names) or any(name.endswith("[]") for name in names):
        raise BadRequestError("each query parameter may stand once; lists are not accepted")


def _bug_reader(connection: HTTPConnection) -> Principal:
    principal = principal_of(connection.scope)
    principal.require(Role.VIEWER, Role.REPORTER, Role.OPERATOR)
    return principal


def _bug_reporter(connection: HTTPConnection) -> Principal:
    principal = principal_of(connection.scope)
    principal.require(Role.REPORTER, Role.OPERATOR)
    return principal


CurrentResources = Annotated[Resources, Depends(_resources)]
CurrentRuntime = Annotated[Runtime, Depends(_runtime)]
Reader = Annotated[Principal, Depends(_reader)]
Operator = Annotated[Principal, Depends(_operator)]
Admin = Annotated[Principal, Depends(_admin)]
BugReader = Annotated[Principal, Depends(_bug_reader)]
BugReporter = Annotated[Principal, Depends(_bug_reporter)]
