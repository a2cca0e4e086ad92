"""Why a message was refused: the codes of docs/protocol.md."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Every error code that a device can be answered with."""

    MALFORMED_JSON = "malformed_json"
    MALFORMED_MSGPACK = "malformed_msgpack"
    NOT_FINITE = "not_finite"
    MESSAGE_TOO_LARGE = "message_too_large"
    BATCH_TOO_LARGE = "batch_too_large"
    UNKNOWN_TYPE = "unknown_type"
    MISSING_FIELD = "missing_field"
    INVALID_TYPE = "invalid_type"
    INVALID_IDENTITY = "invalid_identity"
    INVALID_TIMESTAMP = "invalid_timestamp"
    INVALID_MATRIX = "invalid_matrix"
    OUT_OF_RANGE = "out_of_range"
    INVALID_WEIGHTS = "invalid_weights"
    IDENTITY_CONFLICT = "identity_conflict"
    NOT_STORABLE = "not_storable"
    BUSY = "busy"


class RefusalError(Exception):
    """A message that cannot be stored: its code, a sentence for people, and whom it named, as far as that is known."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
