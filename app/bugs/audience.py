"""Who looks: staff sees internal comments and all that hangs on them, everybody else sees no trace of them.

Whatever reads from a table that holds internal rows takes an Audience, which has no default, and puts `visible` into
its SQL.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from app.core.security import Role

if TYPE_CHECKING:
    from app.core.security import Principal


class Audience(Enum):
    """Staff are operators and administrators; outsiders are all others, viewers and reporters too."""

    STAFF = "staff"
    OUTSIDER = "outsider"

    @classmethod
    def of(cls, principal: Principal) -> Audience:
        return cls.STAFF if principal.roles & {Role.OPERATOR, Role.ADMIN} else cls.OUTSIDER

    @property
    def is_staff(self) -> bool:
        return self is Audience.STAFF

    def visible(self, table: str) -> str:
        """SQL: whether a row of `table` (with `is_internal`) may be seen."""
        return "true" if self.is_staff else f"NOT {table}.is_internal"
