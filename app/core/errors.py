"""The one error base. Whatever leaves the process as an error was made from one of these."""

from __future__ import annotations


class AppError(Exception):
    """An error with a stable code that may be shown to a client.

    `code` is a snake_case word documented in the protocol or the API; `detail` is written for people and never
    holds internal text; `retry_after_s` says when trying again may help.
    """

    status = 500
    code = "internal_error"

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class BadRequestError(AppError):
    status = 422
    code = "invalid_request"


class BadCursorError(AppError):
    status = 400
    code = "invalid_cursor"


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


class TooManyExportsError(AppError):
    """As many exports run as this process takes."""

    status = 503
    code = "too_many_exports"


class StartingError(AppError):
    """The process listens but its resources are not open yet, or are closing."""

    status = 503
    code = "starting"


class DatabaseUnavailableError(AppError):
    """PostgreSQL did not answer in time, refused, or is going away. What was asked may or may not have happened."""

    status = 503
    code = "database_unavailable"

    def __init__(self, detail: str = "the database does not answer; try again shortly") -> None:
        super().__init__(detail, retry_after_s=2.0)


class DatabaseBusyError(AppError):
    """Our own pool had no connection free in time: the database itself may be well."""

    status = 503
    code = "database_busy"

    def __init__(self, detail: str = "all database connections are in use; try again shortly") -> None:
        super().__init__(detail, retry_after_s=1.0)


class CannotStartError(Exception):
    """A condition that only a person can mend; its text is one clear line for them."""
