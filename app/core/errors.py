"""The one error base. Whatever leaves the process as an error was made from one of these."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class AppError(Exception):
    """An error with a stable code that may be shown to a client.

    `code` is a snake_case word documented in the protocol or the API; `detail` is written for people and never
    holds internal text; `retry_after_s` says when trying again may help; `more` are further members of the problem
    document.
    """

    status = 500
    code = "internal_error"
    more: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self, detail: str, *, retry_after_s: float | None = None, more: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        if more is not None:
            self.more = more


class BadRequestError(AppError):
    """What was asked cannot be: `pointer` (a JSON pointer into the body, `#/title`) or `parameter` (a name in the query
    or a header) says where.
    """

    status = 422
    code = "invalid_request"

    def __init__(self, detail: str, *, pointer: str | None = None, parameter: str | None = None) -> None:
        where = {"pointer": pointer} if pointer else {"parameter": parameter} if parameter else None
        super().__init__(detail, more={"errors": [where | {"why": detail}]} if where else None)


class ConflictError(AppError):
    """It is as it is now that what was asked cannot be done."""

    status = 409
    code = "conflict"


class PreconditionFailedError(AppError):
    """If-Match names another version than the one that is there."""

    status = 412
    code = "precondition_failed"


class PreconditionRequiredError(AppError):
    """A change must say by If-Match which version it is a change of."""

    status = 428
    code = "precondition_required"


class UnsupportedMediaError(AppError):
    """A body of a kind that is not taken."""

    status = 415
    code = "unsupported_media_type"


class BadCursorError(AppError):
    """A cursor that was not given for what it is used for."""

    status = 400
    code = "invalid_cursor"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, more={"errors": [{"parameter": "cursor", "why": detail}]})


class UnauthorizedError(AppError):
    status = 401
    code = "unauthorized"


class ForbiddenError(AppError):
    status = 403
    code = "forbidden"


class NotFoundError(AppError):
    status = 404
    code = "not_found"


class TooManyConnectionsError(AppError):
    """As many sockets of this kind are open as this process takes."""

    status = 503
    code = "too_many_connections"


class StartingError(AppError):
    """The process listens but its resources are not open yet, or are closing."""

    status = 503
    code = "starting"


class UnavailableError(AppError):
    """Something that this needs does not serve now; the same may succeed later."""

    status = 503
    code = "unavailable"


class DrainingError(UnavailableError):
    """The process is stopping: another one, or this one's successor, serves."""

    code = "draining"


class DeadlineError(UnavailableError):
    """The request was not answered within its deadline and was given up."""

    code = "deadline_exceeded"


class TooLargeError(AppError):
    """A request's body is larger than anything that is asked for here."""

    status = 413
    code = "content_too_large"


class TooManyRequestsError(AppError):
    """The caller is over one of its limits."""

    status = 429
    code = "too_many_requests"


class DatabaseUnavailableError(UnavailableError):
    """PostgreSQL did not answer in time, refused, or is going away. What was asked may or may not have happened."""

    code = "database_unavailable"

    def __init__(self, detail: str = "the database does not answer; try again shortly") -> None:
        super().__init__(detail, retry_after_s=2.0)


class ReadOnlyDatabaseError(DatabaseUnavailableError):
    """PostgreSQL answers, but takes no writes: a standby, or one that was switched to reading."""

    code = "database_read_only"

    def __init__(self, detail: str = "the database takes no changes at the moment; try again shortly") -> None:
        super().__init__(detail)


class TryAgainError(UnavailableError):
    """What was asked met somebody else's change: the same may succeed at once."""

    code = "try_again"

    def __init__(self, detail: str = "it collided with another change; try again") -> None:
        super().__init__(detail, retry_after_s=1.0)


class DatabaseBusyError(UnavailableError):
    """Our own pool had no connection free in time: the database itself may be well."""

    code = "database_busy"

    def __init__(self, detail: str = "all database connections are in use; try again shortly") -> None:
        super().__init__(detail, retry_after_s=1.0)


class CannotStartError(Exception):
    """A condition that only a person can mend; its text is one clear line for them."""


def in_a_line(error: BaseException) -> str:
    """Its kind and the first line that it says, for whoever runs the program; never for a client."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}".rstrip(": ")
